"""Texts that look like others: with invisible characters, or composed in another way. Owns which ones they are.

The producers check ids by it, and the command line what it prints. Knows no field; the fold takes
such texts, since what is in the log is decided. Letters of two alphabets that look alike are not its matter: each can
be seen and typed. Source: the general categories and `Default_Ignorable_Code_Point` of Unicode 15.
"""

import re
import unicodedata

# Categories of characters without a shape of their own: format characters (byte order and direction marks, joiners,
# zero-width spaces), line and paragraph separators, private use.
_UNSEEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# In other categories and unseen all the same: fillers, joiners of graphemes, selectors of variants, what isn't a
# character at all; and all spaces but the one of ASCII.
_UNSEEN = re.compile(
    "[\u00a0\u034f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200a\u202f\u205f\u2065\u3000\u3164\ufdd0-\ufdef"
    "\ufe00-\ufe0f\uffa0\ufff0-\ufff8\ufffe\uffff\U000e0000-\U000e0fff]"
).match


def is_unseen(char: str) -> bool:
    """Whether a character shows nothing, or what another one shows."""
    return unicodedata.category(char) in _UNSEEN_CATEGORIES or _UNSEEN(char) is not None


def oddity_of(text: str) -> str | None:
    """What makes a text look like another one: a character by its code, name and place, or its composition.

    None if nothing does.
    """
    if text.isascii() and text.isprintable():
        return None
    for place, char in enumerate(text, 1):
        if is_unseen(char):
            name = unicodedata.name(char, "")
            return f"U+{ord(char):04X}{f' ({name})' if name else ''} as its character {place}"
    if not unicodedata.is_normalized("NFC", text):
        return "letters and marks that Unicode's form NFC writes as one"
    return None


def escaped(text: str) -> str:
    """A text of one line with everything escaped that controls a terminal or is invisible."""
    if text.isascii() and text.isprintable():
        return text
    # Marks that would melt into the letter before them, where that letter with its mark is a character of its own.
    is_composed = unicodedata.is_normalized("NFC", text)
    return "".join(_escaped(char) if _is_hidden(char, is_composed) else char for char in text)


def _is_hidden(char: str, is_composed: bool) -> bool:
    return not char.isprintable() or is_unseen(char) or not (is_composed or not unicodedata.combining(char))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
