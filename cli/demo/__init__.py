"""The demo: a real purchase history through the whole ledger."""
