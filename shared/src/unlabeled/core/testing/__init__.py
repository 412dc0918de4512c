"""Contract tests that packages subclass, and what they need (extra `testing`)."""
