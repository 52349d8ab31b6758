"""The links, addresses, routes, rules and SNAT rules that must exist, as data. PURE."""
