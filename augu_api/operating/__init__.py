"""For whoever runs the service: the command line, checks, the log and the gunicorn worker."""
