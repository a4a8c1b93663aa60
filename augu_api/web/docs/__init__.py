"""The documentation that the service serves: openapi.json, the page that shows it, and the page to try it."""
