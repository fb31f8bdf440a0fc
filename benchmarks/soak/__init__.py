"""
Minutes of load with tokens that live for seconds and an authorization server that often fails.
"""
