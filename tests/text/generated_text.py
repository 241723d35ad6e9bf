"""Text that brings out differences between tokenizers: every script, characters that Unicode 15 and 16 added,
emoji, combining marks out of order, contractions in every case, long runs of blanks, line ends of all kinds.

Deterministic: its own generator, not Python's, whose sequences may change.
"""

# First and last code point of what is drawn from.
RANGES = [
    (0x20, 0x7E), (0xA0, 0x17F), (0x180, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F),
    (0x531, 0x58F), (0x591, 0x5F4), (0x600, 0x6FF), (0x860, 0x8FF), (0x900, 0x97F), (0xB80, 0xBFF), (0xCF0, 0xCFF),
    (0xE00, 0xEDF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x13A0, 0x13FD),
    (0x1680, 0x169C), (0x1800, 0x18AA), (0x1B40, 0x1B7F), (0x1C80, 0x1CBF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFE),
    (0x2000, 0x206F), (0x2070, 0x209C), (0x2100, 0x218B), (0x2190, 0x22FF), (0x2400, 0x2429), (0x2460, 0x24FF),
    (0x2FF0, 0x2FFF), (0x3000, 0x30FF), (0x31C0, 0x31EF), (0x4E00, 0x9FFF), (0xA7C0, 0xA7FF), (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFDF0, 0xFDFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEE), (0x10000, 0x100FA),
    (0x10400, 0x1044F), (0x105C0, 0x105F3), (0x10D40, 0x10D8F), (0x10EC0, 0x10EFF), (0x11380, 0x113E2),
    (0x11F00, 0x11F5A), (0x13430, 0x13460), (0x16100, 0x16139), (0x16D40, 0x16D79), (0x1CC00, 0x1CEB3),
    (0x1D100, 0x1D1FF), (0x1D400, 0x1D7FF), (0x1E5D0, 0x1E5FF), (0x1F300, 0x1F64F), (0x1F680, 0x1F6FF),
    (0x1F900, 0x1F9FF), (0x1FA70, 0x1FAFF), (0x20000, 0x2A6DF), (0x2EBF0, 0x2EE5D), (0x31350, 0x323AF),
    (0xE0100, 0xE01EF), (0xF0000, 0xF0010),
]

FIXED = [
    "", " ", "a", "Hello world", "Hello, world! It's 2024.", "I'm you're we've he'll they'd IT'S YOU'RE WE'VE 'S 'T",
    "it\u2019s \u017ft 'ſ 'ſome x'ſ", "12345678901234567890 3.14159 \u0661\u0662\u0663\u0664 \u2167 \u00bd",
    "tabs\tand\t\tmore   blanks    \n\n\n  newline\r\n\r\n\rend   ", "   lead", "trail   ", "a  b   c    d", "\n", " \n ",
    "\u3000\u3000ideographic\u00a0\u00a0\u2003space \u180e mongolian\u180e\u180e\u200b\u200bzero", "x\u0085y\u2028z\u2029",
    "e\u0301 \u00e9 o\u0302\u0323 o\u0323\u0302 \u1100\u1161\u11a8 \uac01 A\u030a \u212b \u2126 \ufb01 \u0344",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \U0001fae8 \U0001f6dc\ufe0f",
    "日本語のテキスト、中文文本。한국어 텍스트 ไทย العربية עברית हिन्दी Ελληνικά Русский",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n", "https://example.com/?q=a+b&c=%20#frag",
    "\U00031350\U00031351 \U0002ebf0 \u1c89\u1c8a \ua7cb\ua7dc \U00010d50\U00010d70 \U00016d70", "\x00\x01\x02\x1c\x1f\x7f",
    "<|endoftext|>", "a<|endoftext|>b <|endoftext|>", "<|endoftext|", "<|end<|endoftext|>oftext|>", "<keep> <|keep|> <tool>",
    "ﬆ ẞß İı Ǆǅǆ ΑΣ ΟΔΟΣ", "HTTPServer camelCase snake_case SCREAMING_CASE x86_64 \u0301leading mark",
]


class Generator:
    """SplitMix64 (Steele et al. 2014)."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        mask = (1 << 64) - 1
        self.state = self.state + 0x9E3779B97F4A7C15 & mask
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return (z ^ z >> 31) % n


def word(random):
    first, last = RANGES[random.below(len(RANGES))] if random.below(3) else (0x61, 0x7A)
    return "".join(chr(first + random.below(last - first + 1)) for _ in range(1 + random.below(8)))


def generated(characters, seed):
    random = Generator(seed)
    blanks = [" ", " ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "", "\u00a0", "\u3000", " \n ", " " * 40]
    parts, length = [], 0
    while length < characters:
        if random.below(40) == 0:
            part = FIXED[random.below(len(FIXED))]
        elif random.below(12) == 0:
            part = str(random.below(10 ** (1 + random.below(9))))
        elif random.below(20) == 0:
            part = "".join(word(random)[0] for _ in range(12))
        else:
            part = word(random)
        part += blanks[random.below(len(blanks))]
        parts.append(part)
        length += len(part)
    return "".join(parts)
