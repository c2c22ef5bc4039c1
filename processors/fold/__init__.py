"""The fold of one chunk in one transaction, which worker and rebuild share."""
