"""Its folder holds modules that the tests below share."""
