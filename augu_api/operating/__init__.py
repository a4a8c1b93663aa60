"""Tools for operators: the command line, checks, the log and the gunicorn worker."""
