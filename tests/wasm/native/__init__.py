"""What could end the process, and what holds it off: many cases here die, hang or answer wrongly without their guard."""
