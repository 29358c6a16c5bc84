"""`sgen serve`: an HTTP server that speaks OpenAI's, Anthropic's and its own interfaces."""
