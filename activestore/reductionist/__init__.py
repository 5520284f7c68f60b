"""The Reductionist protocol: client, requests and answers."""
