"""`python -m ai_how` is the command `ai-how`."""

from ai_how.cli.main import main

main()
