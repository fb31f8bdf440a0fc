"""
The OAuth standards, without I/O: builds and judges messages, sends nothing, reads no clock.
"""
