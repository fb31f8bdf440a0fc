"""
Three services in a row, and a user's request that goes through all of them.
"""
