"""
Real servers on loopback sockets, for tests that must not trust a mock.
"""
