"""A hospital's side: reads its files, trains and evaluates on its own machine, says what it agreed to say."""
