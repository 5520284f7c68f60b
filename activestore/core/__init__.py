"""The engine: metadata, selection, codecs, planning, the kernel and aggregation. It knows no service and no display."""
