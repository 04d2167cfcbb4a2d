"""The MCP server of an agent: the tools of its task, of the standard library alone."""
