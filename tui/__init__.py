"""The shop in a terminal: screens over the same admin service as the command line."""
