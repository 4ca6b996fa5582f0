from lookalike.client.cli import main

main()
