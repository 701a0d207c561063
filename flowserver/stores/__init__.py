"""What limit stores count in: this process or Redis, and the tenants kept there."""
