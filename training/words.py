"""Vocabulary: which words are keywords, which are "other speech", which are left out.

A class list is always the keywords followed by two catch-all classes, so class `k` is a keyword
exactly when `k < len(labels) - 2`:

    labels = [keyword_0, ..., keyword_K-1, "_unknown_", "_background_"]
"""

UNKNOWN = "_unknown_"
BACKGROUND = "_background_"

KEYWORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]

# Other speech, heard in training.
OTHER_WORDS = """
    after always animal answer apple backward because bed before bird brother camera cat chair close
    coffee computer country dog door doctor download eight evening fan father five follow forward four
    friday garden green happy heat hello house kitchen lamp learn letter little louder marvin maybe
    monday money morning mother mountain music never next nine number one open orange over paper pause
    pencil people picture play please purple question quiet river school seven sheila sister six start
    summer table teacher telephone thanks three tree two under visual volume water window winter wow
    yellow zero back
""".split()

# Other speech that only validation and test clips contain: the network has never heard these words.
HELD_OUT_WORDS = """
    banana bottle bread candle cloud desk dragon elephant engine feather flag grape guitar hammer
    hospital island jacket kangaroo knee ladder lemon magnet mirror needle notebook ocean oven piano
    pocket rabbit rope sandwich spider ticket tiger umbrella village wagon whistle zebra
""".split()

# Words one sound away from a keyword ("top" and "stop", "town" and "down"). Presented as negatives they
# teach a small network to doubt the keywords themselves, so clips.py drops them from every split.
NEAR_MISSES = """
    awful chess cold cough crown cup cut dawn drop fight gold gone goat got guess height honest known
    lest lift light loft low nope nose note night often office offer only own rode row shop shut step
    stock stuff top town under-way upper writing yell yet
""".split()


def class_list(keywords):
    """All class names for a list of keywords, in class order."""
    return [*keywords, UNKNOWN, BACKGROUND]


assert not set(OTHER_WORDS) & set(HELD_OUT_WORDS)
assert not (set(OTHER_WORDS) | set(HELD_OUT_WORDS) | set(NEAR_MISSES)) & set(KEYWORDS)
assert not (set(OTHER_WORDS) | set(HELD_OUT_WORDS)) & set(NEAR_MISSES)
