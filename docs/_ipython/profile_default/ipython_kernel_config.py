"""The kernel of executed pages: no word about sockets of this machine alone, which end with the page."""

c = get_config()  # noqa: F821  IPython defines it
c.IPKernelApp.log_level = 40  # errors
