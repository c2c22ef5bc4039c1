"""Who may use the HTTP door, and who did: API keys, and the audit of what operators did. All of their SQL is here."""
