"""What one transaction of the fold loads and writes."""
