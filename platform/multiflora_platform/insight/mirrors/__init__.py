"""What the prefix cache gains and loses, told to programs that mirror it: numbered, kept, published."""
