"""Experiments that anyone can repeat; their results are under results/ and are never edited by hand."""
