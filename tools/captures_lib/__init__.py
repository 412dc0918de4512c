"""Parts of tools/captures."""
