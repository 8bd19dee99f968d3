"""The small shipped models (mini-dit, mini-vlm, judge) and the code that trained them."""
