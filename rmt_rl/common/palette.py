"""The colors of lines in figures."""

#: People with any kind of color blindness can tell them apart (Okabe and Ito 2008; gray and brown instead of black and yellow, of
#: which one is invisible on a dark and the other on a light page).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080", "#8a5a3c")
