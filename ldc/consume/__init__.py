"""From the book to the bot: user callbacks and waiting threads."""
