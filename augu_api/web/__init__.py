"""The HTTP side: gates, request and reply, and a file for each blueprint."""
