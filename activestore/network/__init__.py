"""Network access that sources, clients and the server share."""
