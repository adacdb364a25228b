"""QuantGraph to QuantGraph rewrites that fit a deployment target."""
