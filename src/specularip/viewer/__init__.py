"""The avatar in a web browser: the packed file that the viewer reads, and pages that hold one."""
