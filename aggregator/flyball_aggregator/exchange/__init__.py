"""Protocols of the facility side: DSX Exchange, building management, OpenADR and MCP."""
