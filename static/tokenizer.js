/**
 * WordPiece with offsets, exactly as the tokenizers library cuts a text.
 *
 * What happens to each code point (lower case, accents, spaces around Han characters, what is dropped) is not decided
 * here: `deploy/static_tokenizer.py` asks the real normalizer and writes tables, so that the Unicode version of a
 * browser plays no part.
 */

/**
 * @typedef {object} Part a special token, or the place of a text
 * @property {number=} id
 * @property {number=} text 0, or 1 for the second text of a pair
 * @property {number} type segment of its tokens
 */

/**
 * @typedef {object} Tables
 * @property {(string | null)[]} vocabulary token of each id
 * @property {[string, number, boolean, boolean][]} added tokens that are recognised in the text as it is: their ids, and
 *   whether they take in the white space before and after them
 * @property {Part[]} single special tokens and the text, in their order
 * @property {Part[]} pair the same for a pair of texts
 * @property {number} unknown
 * @property {string} continuation what a piece inside of a word begins with
 * @property {number} max_letters of a word; a longer one is unknown
 * @property {number[]} dropped flat list of ranges: first, last, first, last, …
 * @property {number[]} apart ranges that are words of their own
 * @property {number[]} blank ranges of white space, after normalization
 * @property {number[]} punctuation ranges, after normalization
 * @property {[number, string][]} mapped code points that become something else
 * @property {boolean} hangul syllables become their letters
 */

/**
 * @typedef {object} Encoding
 * @property {number[]} ids
 * @property {[number, number][]} offsets in code points; [0, 0] of special tokens
 * @property {boolean[]} special
 * @property {number[]} types segment of each token
 * @property {number[]} texts text that each token comes from; 0 for special ones
 */

const [DROPPED, APART, MAPPED] = [1, 2, 4];
const [BLANK, PUNCTUATION] = [8, 16];
const WHITE_SPACE = /\p{White_Space}/u;

export class Tokenizer {
  /** @param {Tables} tables */
  constructor(tables) {
    this.tables = tables;
    /** @type {Map<string, number>} */
    this.ids = new Map();
    tables.vocabulary.forEach((token, id) => {
      if (token !== null) this.ids.set(token, id);
    });
    this.mapped = new Map(tables.mapped);
    this.longest = 0; // letters of a token
    for (const token of this.ids.keys()) this.longest = Math.max(this.longest, [...token].length);
    this.added = tables.added.map(([token, id, before, after]) => ({ letters: [...token], id, before, after }));
    this.kinds = new Uint8Array(0x110000);
    this.mark(tables.dropped, DROPPED);
    this.mark(tables.apart, APART);
    this.mark(tables.blank, BLANK);
    this.mark(tables.punctuation, PUNCTUATION);
    for (const code of this.mapped.keys()) this.kinds[code] |= MAPPED;
  }

  /**
   * @param {number[]} ranges
   * @param {number} kind
   */
  mark(ranges, kind) {
    for (let i = 0; i < ranges.length; i += 2) {
      for (let code = ranges[i]; code <= ranges[i + 1]; code++) this.kinds[code] |= kind;
    }
  }

  /**
   * Return the tokens of a text or a pair of texts, special ones included.
   * @param {string[][]} texts their letters
   * @returns {Encoding}
   */
  encode(texts) {
    /** @type {Encoding} */
    const encoding = { ids: [], offsets: [], special: [], types: [], texts: [] };
    for (const { id, text = 0, type } of texts.length > 1 ? this.tables.pair : this.tables.single) {
      if (id === undefined) this.read(texts[text], encoding);
      else push(encoding, id, [0, 0]);
      while (encoding.types.length < encoding.ids.length) {
        encoding.types.push(type);
        encoding.texts.push(text);
        encoding.special.push(id !== undefined);
      }
    }
    return encoding;
  }

  /**
   * Add the tokens of a text.
   * @param {string[]} letters
   * @param {Encoding} encoding
   */
  read(letters, encoding) {
    let start = 0;
    for (let i = 0; i < letters.length; ) {
      const token = this.addedAt(letters, i);
      if (token) {
        let [from, to] = [i, i + token.letters.length];
        while (token.before && from > start && WHITE_SPACE.test(letters[from - 1])) from--;
        while (token.after && to < letters.length && WHITE_SPACE.test(letters[to])) to++;
        this.words(letters, start, from, encoding);
        push(encoding, token.id, [from, to]);
        start = i = to;
      } else {
        i++;
      }
    }
    this.words(letters, start, letters.length, encoding);
  }

  /**
   * Return the longest added token that begins at a letter.
   * @param {string[]} letters
   * @param {number} at
   */
  addedAt(letters, at) {
    /** @type {(typeof this.added)[0] | null} */
    let longest = null;
    for (const token of this.added) {
      if (longest && token.letters.length <= longest.letters.length) continue;
      if (token.letters.every((letter, i) => letters[at + i] === letter)) longest = token;
    }
    return longest;
  }

  /**
   * Add the tokens of the words between two positions.
   * @param {string[]} letters
   * @param {number} start
   * @param {number} end
   * @param {Encoding} encoding
   */
  words(letters, start, end, encoding) {
    /** @type {string[]} */
    let word = [];
    /** @type {number[]} */
    let places = [];
    const close = () => {
      if (word.length) this.pieces(word, places, encoding);
      [word, places] = [[], []];
    };
    for (let i = start; i < end; i++) {
      const code = /** @type {number} */ (letters[i].codePointAt(0));
      const kind = this.kinds[code];
      if (kind & DROPPED) continue;
      if (kind & APART) close();
      for (const letter of kind & MAPPED ? /** @type {string} */ (this.mapped.get(code)) : this.parts(letters[i], code)) {
        const own = this.kinds[/** @type {number} */ (letter.codePointAt(0))];
        if (own & (BLANK | PUNCTUATION)) close();
        if (own & BLANK) continue;
        word.push(letter);
        places.push(i);
        if (own & PUNCTUATION) close();
      }
      if (kind & APART) close();
    }
    close();
  }

  /**
   * Return a letter, or the letters of a Hangul syllable (Unicode 3.12).
   * @param {string} letter
   * @param {number} code
   */
  parts(letter, code) {
    const index = code - 0xac00;
    if (!this.tables.hangul || index < 0 || index >= 11172) return [letter];
    const tail = index % 28;
    const parts = [0x1100 + Math.floor(index / 588), 0x1161 + Math.floor((index % 588) / 28)];
    return (tail ? [...parts, 0x11a7 + tail] : parts).map((part) => String.fromCodePoint(part));
  }

  /**
   * Add the pieces of one word: the longest known one each time, or one unknown token.
   * @param {string[]} word
   * @param {number[]} places
   * @param {Encoding} encoding
   */
  pieces(word, places, encoding) {
    const { unknown, continuation, max_letters: limit } = this.tables;
    /** @type {[number, number, number][]} */
    const pieces = [];
    for (let start = 0; start < word.length && word.length <= limit; ) {
      let end = Math.min(word.length, start + this.longest);
      /** @type {number | undefined} */
      let id;
      for (; end > start; end--) {
        id = this.ids.get((start ? continuation : "") + word.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) {
        pieces.length = 0;
        break;
      }
      pieces.push([id, start, end]);
      start = end;
    }
    if (!pieces.length) pieces.push([unknown, 0, word.length]);
    for (const [id, start, end] of pieces) push(encoding, id, [places[start], places[end - 1] + 1]);
  }
}

/**
 * @param {Encoding} encoding
 * @param {number} id
 * @param {[number, number]} offsets
 */
function push(encoding, id, offsets) {
  encoding.ids.push(id);
  encoding.offsets.push(offsets);
}
