package evaluate

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A token is one word or number of a text, in lower case. Numbers keep their
// decimal point and lose their thousands separators; every ideograph is a
// token of its own, for the lack of spaces.
type token struct {
	text  string
	digit bool // holds a digit
	named bool // begins with a capital inside a sentence
}

// tokens splits a text, appending to buf.
func tokens(buf []token, text string) []token {
	start := -1
	digit := false
	fresh := true // at the start of a sentence: a capital says nothing
	flush := func(end int) {
		if start < 0 {
			return
		}
		raw := text[start:end]
		t := token{text: strings.ToLower(raw), digit: digit}
		if digit && strings.Contains(t.text, ",") {
			t.text = strings.ReplaceAll(t.text, ",", "")
		}
		if first, _ := utf8.DecodeRuneInString(raw); !fresh && unicode.IsUpper(first) {
			t.named = true
		}
		buf = append(buf, t)
		start, digit, fresh = -1, false, false
	}
	for i, r := range text {
		switch {
		case r >= '0' && r <= '9' || r >= utf8.RuneSelf && unicode.IsDigit(r):
			if start < 0 {
				start = i
			}
			digit = true
		case r == '.' || r == ',':
			// 4.5 and 1,000 are one number.
			if digit && i > 0 && isDigit(text[i-1]) && i+1 < len(text) && isDigit(text[i+1]) {
				continue
			}
			flush(i)
			fresh = fresh || r == '.'
		case r < utf8.RuneSelf:
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
				if start < 0 {
					start = i
				}
				continue
			}
			flush(i)
			fresh = fresh || r == '!' || r == '?' || r == '\n' || r == ':'
		case ideograph(r):
			flush(i)
			start = i
			flush(i + utf8.RuneLen(r))
		case unicode.IsLetter(r) || unicode.IsMark(r):
			if start < 0 {
				start = i
			}
		default:
			flush(i)
		}
	}
	flush(len(text))
	return buf
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

func ideograph(r rune) bool {
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai)
}

// sentences splits a text into sentences and lines, calling fn with each that
// is not blank. A dot inside a number or an abbreviation of one letter does not end one.
func sentences(text string, fn func(s string)) {
	start := 0
	emit := func(end int) {
		if s := strings.TrimSpace(text[start:end]); s != "" {
			fn(s)
		}
		start = end
	}
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\n':
			emit(i + 1)
		case '.', '!', '?', ';':
			next := i + 1
			for next < len(text) && strings.IndexByte(`.!?"')]`, text[next]) >= 0 {
				next++
			}
			if next < len(text) && text[next] != ' ' && text[next] != '\n' && text[next] != '\t' {
				continue
			}
			if text[i] == '.' && i >= 1 && (i == 1 || text[i-2] == ' ' || text[i-2] == '.') && text[i-1] >= 'A' && text[i-1] <= 'Z' {
				continue // an initial
			}
			emit(next)
			i = next - 1
		case 0xe3: // 。 U+3002
			if strings.HasPrefix(text[i:], "。") {
				emit(i + len("。"))
				i = start - 1
			}
		}
	}
	emit(len(text))
}

// stem reduces an English word to what its forms share. It is light: it
// prefers to keep two words apart over taking them for one.
func stem(w string) string {
	if n, ok := numberWords[w]; ok {
		return n
	}
	for i := 0; i < len(w); i++ {
		if w[i] >= utf8.RuneSelf || isDigit(w[i]) {
			return w
		}
	}
	if len(w) > 4 && strings.HasSuffix(w, "ies") {
		return w[:len(w)-3] + "y"
	}
	for _, suffix := range suffixes {
		if len(w)-len(suffix) >= 3 && strings.HasSuffix(w, suffix) {
			w = w[:len(w)-len(suffix)]
			break
		}
	}
	if n := len(w); n > 3 && w[n-1] == w[n-2] {
		w = w[:n-1]
	}
	if n := len(w); n > 3 && w[n-1] == 'i' {
		w = w[:n-1] + "y"
	}
	return w
}

var suffixes = []string{"ingly", "ing", "edly", "ed", "ly", "ers", "er", "es", "s", "e"}

// numberWords are written-out numbers and what else has two spellings in digits.
var numberWords = map[string]string{
	"zero": "0", "one": "1", "once": "1", "first": "1", "two": "2", "twice": "2", "second": "2", "three": "3", "third": "3",
	"four": "4", "fourth": "4", "five": "5", "fifth": "5", "six": "6", "sixth": "6", "seven": "7", "seventh": "7",
	"eight": "8", "eighth": "8", "nine": "9", "ninth": "9", "ten": "10", "tenth": "10", "eleven": "11", "twelve": "12",
	"thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
}

// words makes a set of a list of words.
func words(list string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(list) {
		m[w] = true
	}
	return m
}

// cut shortens a text to n bytes at a rune's boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
