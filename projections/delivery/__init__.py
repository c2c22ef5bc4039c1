"""Webhooks and alerts as PostgreSQL keeps them: who is called, what waits, what was tried. All of their SQL is here."""
