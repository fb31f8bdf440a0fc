"""
Programs that run by themselves.
"""
