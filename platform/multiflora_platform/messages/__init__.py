"""What is inside an assistant's text: reasoning, content, tool calls; read as it comes, and written as grammars."""
