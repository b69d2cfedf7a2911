"""What only the book needs: running and building it, its figures, tables and ledger."""
