# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fast path of plain commands under version 1 of the rules: a grant or a spend that uses no further field.

Implements no rule of its own. Python is the truth: schemas/ reads a record, ledger/ decides it, projections/ makes its
line and its rows. This module does so for the commands that nearly all are, in inline accounts, which have nothing but
lots that can be spent; whatever differs in anything is left to Python.
tests/processors/test_plain.py holds the two together. Compiled by Cython where the core is compiled, and absent
elsewhere. Knows no Kafka client, no PostgreSQL, no clock.
"""

from hashlib import blake2b
from sys import intern

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcmp, memcpy, memset

from creditfold.log.record import LogRecord

cdef extern from "stdlib.h" nogil:
    void* aligned_alloc(size_t alignment, size_t size)


# As in ledger/limits.py, ledger/account.py and projections/store/chain.py; a test compares them.
cdef int64_t MAX_AMOUNT = 2**53 - 1
cdef int64_t MAX_OCCURRED_AT = 253402300799999
cdef int64_t MAX_BALANCE = 2**62 - 1
cdef int64_t NEVER = 2**63 - 1
cdef int NUMBER_BITS = 20
cdef int CHECKPOINT_OFFSETS = 10_000
cdef int RULES = 1
cdef int MAX_COMMAND_ID = 64
cdef int MAX_ACCOUNT = 128
cdef int MAX_ASSET = 64
cdef int MAX_SOURCE = 128
cdef int MAX_REASON = 1024
cdef int64_t DEFAULT_PRIORITY = 50
cdef int64_t HOUR_MS = 3_600_000
cdef int HOUR_REASON = 100

LIMITS = {
    "MAX_AMOUNT": MAX_AMOUNT,
    "MAX_OCCURRED_AT": MAX_OCCURRED_AT,
    "MAX_BALANCE": MAX_BALANCE,
    "MAX_COMMAND_ID": MAX_COMMAND_ID,
    "MAX_ACCOUNT": MAX_ACCOUNT,
    "MAX_ASSET": MAX_ASSET,
    "MAX_SOURCE": MAX_SOURCE,
    "MAX_REASON": MAX_REASON,
    "NUMBER_BITS": NUMBER_BITS,
    "CHECKPOINT_OFFSETS": CHECKPOINT_OFFSETS,
    "RULES": RULES,
    "PRIORITY": DEFAULT_PRIORITY,
    "HOUR_MS": HOUR_MS,
    "HOUR_REASON": HOUR_REASON,
}

# An account with more lots than these goes Python's way, which finds a lot's place in more than one look.
cdef int _MOST_LOTS = 64
MOST_LOTS = _MOST_LOTS

cdef int GRANT = 1
cdef int SPEND = 2

# What stands behind the amount in the record of a plain command: the defaults of the fields that only a grant has
# (lot_class "paid", priority 50, and three that are empty), or only a spend.
cdef bytes _GRANT_OWN = b"\x08paid\x64\0\0\0"
cdef bytes _SPEND_OWN = b"\0\0\0"

cdef int READY = 0
cdef int MISSING = 1
cdef int SLOW = 2

# Bytes of lots that stand in a balance: with more, its row would be too large for its page, and be packed.
cdef int _MOST_INLINE = 1_500

# What each byte may be part of: 1 an id that is written as it is everywhere, 2 a note likewise.
cdef unsigned char[256] _KINDS


cdef void _fill_kinds() noexcept:
    cdef int at
    for at in range(256):
        _KINDS[at] = 0
        if 0x20 <= at <= 0x7E and at != 0x5C:
            _KINDS[at] |= 2
            if at != 0x20 and at != 0x22:
                _KINDS[at] |= 1


_fill_kinds()


cdef inline bint _all_of(const unsigned char* text, Py_ssize_t size, unsigned char kind) noexcept:
    cdef Py_ssize_t at
    for at in range(size):
        if not _KINDS[text[at]] & kind:
            return False
    return True


# ---- Filter of ids


#: Bytes of a line of the processor's cache.
cdef enum:
    _LINE_BYTES = 64


@cython.final
cdef class Filter:
    """Which (account, command id) were added: may take a new one for an added one, never an added one for new.

    Args:
        size: its bytes.
        most: how many ids before the last are recognized, at most twice as many; None to recognize all.
    """

    cdef uint64_t* _now
    cdef uint64_t* _before
    cdef uint64_t _words
    cdef int64_t _most
    cdef int64_t _noted

    def __cinit__(self, Py_ssize_t size, most=None):
        cdef Py_ssize_t generations = 1 if most is None else 2
        self._words = max(size // _LINE_BYTES // generations, 1) * (_LINE_BYTES // 8)
        self._most = -1 if most is None else most
        self._noted = 0
        self._before = NULL
        self._now = _lines(self._words)
        if generations == 2:
            self._before = _lines(self._words)

    def __dealloc__(self):
        free(self._now)
        free(self._before)

    def add(self, str account not None, str command_id not None):
        """Add an id; returns whether it may have been added before."""
        cdef bytes name = account.encode("utf-8", "surrogatepass"), own = command_id.encode("utf-8", "surrogatepass")
        return self._add(
            <const unsigned char*> PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
            <const unsigned char*> PyBytes_AS_STRING(own), PyBytes_GET_SIZE(own),
        )

    cdef bint _add(
        self, const unsigned char* name, Py_ssize_t name_size, const unsigned char* own, Py_ssize_t own_size
    ) noexcept:
        cdef uint64_t mixed = _mix(_hash(own, own_size, _hash(name, name_size, 0x9E3779B97F4A7C15)))
        cdef uint64_t places = _mix(mixed ^ 0xC2B2AE3D27D4EB4F), mask
        # All of an id's bits lie in one line: the processor waits for memory once.
        cdef uint64_t line = (((mixed >> 32) * (self._words >> 3)) >> 32) << 3, word
        cdef bint found_now = True, found_before = self._before != NULL
        cdef uint64_t* swap
        cdef int probe
        for probe in range(7):
            word = line + (places & 7)
            mask = (<uint64_t> 1) << ((places >> 3) & 63)
            if found_before and not self._before[word] & mask:
                found_before = False
            if not self._now[word] & mask:
                found_now = False
                self._now[word] |= mask
            places >>= 9
        if self._most >= 0:
            self._noted += 1
            if self._noted >= self._most:
                swap = self._before
                self._before = self._now
                self._now = swap
                self._noted = 0
                memset(self._now, 0, self._words * 8)
        return found_now or found_before


cdef uint64_t* _lines(uint64_t words) except NULL:
    """So many words of zeros, where a line of the cache begins."""
    cdef void* found = aligned_alloc(_LINE_BYTES, words * 8)
    if found == NULL:
        raise MemoryError
    memset(found, 0, words * 8)
    return <uint64_t*> found


cdef inline uint64_t _mix(uint64_t value) noexcept:
    # The finalizer of MurmurHash3, by Austin Appleby, in the public domain.
    value ^= value >> 33
    value *= <uint64_t> 0xFF51AFD7ED558CCD
    value ^= value >> 33
    value *= <uint64_t> 0xC4CEB9FE1A85EC53
    return value ^ (value >> 33)


cdef inline uint64_t _hash(const unsigned char* text, Py_ssize_t size, uint64_t start) noexcept:
    cdef uint64_t found = start ^ (<uint64_t> size * <uint64_t> 0x9FB21C651E98DF25), word
    while size >= 8:
        memcpy(&word, text, 8)
        found = (found ^ word) * <uint64_t> 0x9E3779B97F4A7C15
        found ^= found >> 32
        text += 8
        size -= 8
    if size:
        word = 0
        memcpy(&word, text, size)
        found = (found ^ word) * <uint64_t> 0x9E3779B97F4A7C15
        found ^= found >> 32
    return found


# ---- State


@cython.final
@cython.no_gc
cdef class Asset:
    """An asset, and by how much the lines of one chunk change what there is of it."""

    cdef bytes name
    # Whether any line was about it.
    cdef bint is_touched
    cdef int64_t issued
    cdef int64_t spent
    # What no longer fitted in there.
    cdef object more_issued
    cdef object more_spent

    def __cinit__(self, bytes name):
        self.name = name
        self.more_issued = self.more_spent = 0

    cdef int add(self, int64_t issued, int64_t spent) except -1:
        self.is_touched = True
        self.issued += issued
        self.spent += spent
        if self.issued > MAX_BALANCE or self.spent > MAX_BALANCE:
            self.more_issued += self.issued
            self.more_spent += self.spent
            self.issued = self.spent = 0
        return 0

    cdef tuple take(self):
        found = (self.more_issued + self.issued, self.more_spent + self.spent)
        self.is_touched = False
        self.issued = self.spent = 0
        self.more_issued = self.more_spent = 0
        return found


@cython.final
@cython.no_gc
@cython.freelist(1024)
cdef class Lot:
    """A lot that can be spent, or could be until this chunk."""

    cdef bytes id
    cdef str source
    # The next one in the order of spending.
    cdef Lot next
    # Expired, voided, forfeited, reissued, transferred; None where all are 0.
    cdef tuple others
    cdef int64_t made
    cdef int64_t effective_at
    cdef int64_t expires_at
    cdef int64_t amount
    cdef int64_t remaining
    cdef int64_t spent
    cdef int64_t position
    cdef int number
    cdef short priority
    cdef bint is_promo
    cdef bint is_stored
    cdef bint is_dirty


cdef inline bint _comes_before(Lot left, Lot right) noexcept:
    """Whether a lot is spent before another. None is of a scope."""
    if left.priority != right.priority:
        return left.priority < right.priority
    cdef int64_t left_end = left.expires_at if left.expires_at else NEVER
    cdef int64_t right_end = right.expires_at if right.expires_at else NEVER
    if left_end != right_end:
        return left_end < right_end
    if left.is_promo != right.is_promo:
        return left.is_promo
    if left.effective_at != right.effective_at:
        return left.effective_at < right.effective_at
    return left.made < right.made


@cython.final
@cython.no_gc
cdef class Light:
    """An account that has lots of one asset which can be spent by all, and else nothing."""

    cdef readonly bytes name
    # None before its first command.
    cdef Asset asset
    # What can be spent, in its order.
    cdef Lot first
    cdef Lot last
    # Lots that were spent since the rows were written last, None for none.
    cdef list emptied
    cdef int64_t version
    cdef int64_t available
    # When the first of its lots ends.
    cdef int64_t next_due
    # Of the record that its last line is of.
    cdef int64_t position
    cdef int lots
    cdef int state
    cdef bint is_dirty
    cdef bint is_of_part
    cdef bint is_doubtful

    def __cinit__(self, bytes name):
        self.name = name
        self.next_due = NEVER

    def __dealloc__(self):
        # One by one, or a long chain would take as deep a stack.
        cdef Lot lot = self.first, following
        self.first = self.last = None
        while lot is not None:
            following = lot.next
            lot.next = None
            lot = following

    cdef int insert(self, Lot lot) except -1:
        cdef Lot at = self.first, before = None
        if self.last is not None and not _comes_before(lot, self.last):
            before = self.last
            at = None
        while at is not None and not _comes_before(lot, at):
            before = at
            at = at.next
        lot.next = at
        if before is None:
            self.first = lot
        else:
            before.next = lot
        if at is None:
            self.last = lot
        self.lots += 1
        if lot.expires_at and lot.expires_at < self.next_due:
            self.next_due = lot.expires_at
        return 0

    cdef int drop_first(self) except -1:
        """Take out the first lot, of which nothing remains."""
        cdef Lot lot = self.first
        self.first = lot.next
        if self.first is None:
            self.last = None
        lot.next = None
        self.lots -= 1
        if self.emptied is None:
            self.emptied = []
        self.emptied.append(lot)
        if lot.expires_at and lot.expires_at == self.next_due:
            self.next_due = NEVER
            lot = self.first
            while lot is not None:
                if lot.expires_at and lot.expires_at < self.next_due:
                    self.next_due = lot.expires_at
                lot = lot.next
        return 0


@cython.final
@cython.no_gc
@cython.freelist(4096)
cdef class Plain:
    """A plain command as it is in its record, which is what it is a look at."""

    cdef bytes value
    cdef bytes key
    cdef Light account
    # What the journal keeps of its metadata, in hexadecimal digits; None where there is none.
    cdef bytes extra
    # The metadata themselves, None where there are none.
    cdef readonly object metadata
    cdef const unsigned char* id
    cdef const unsigned char* asset
    cdef const unsigned char* source
    cdef const unsigned char* reason
    cdef int64_t offset
    cdef int64_t timestamp
    cdef int64_t amount
    cdef int64_t occurred_at
    cdef int id_size
    cdef int asset_size
    cdef int source_size
    cdef int reason_size
    cdef int kind

    @property
    def is_slow(self):
        """Whether it goes Python's way after all."""
        return self.account is None or self.account.state == SLOW


@cython.final
cdef class Store:
    """The cached inline accounts of a partition, in the order in which they were met."""

    cdef dict _accounts
    cdef dict _assets
    # Accounts with lines that aren't written yet, and those among them that were taken out since.
    cdef list _dirty
    cdef Py_ssize_t _taken
    # Assets that the lines of this chunk are about.
    cdef list _touched
    cdef readonly Py_ssize_t lots

    def __cinit__(self):
        self._accounts = {}
        self._assets = {}
        self._dirty = []
        self._touched = []

    def __len__(self):
        return len(self._accounts)

    def __contains__(self, str name):
        return name.encode() in self._accounts

    @property
    def unsaved(self):
        """Of how many accounts the rows are to be written."""
        return len(self._dirty) - self._taken

    def find(self, str name not None):
        """An account by its name, None if it isn't here."""
        return self._accounts.get(name.encode())

    def has(self, str name not None):
        """Whether an account is remembered, and not only met for the first time."""
        found = self._accounts.get(name.encode())
        return found is not None and (<Light> found).state == READY

    def names(self):
        """The accounts' names."""
        return [(<Light> light).name.decode() for light in self._accounts.values()]

    def trim(self, Py_ssize_t most, Py_ssize_t most_lots):
        """Keep at most `most` accounts and `most_lots` lots, and forget those that were met first; returns how many were forgotten.

        None may be unsaved.
        """
        cdef list gone = []
        cdef Py_ssize_t excess = len(self._accounts) - most
        cdef Light light
        if len(self._assets) > 2 * len(self._accounts) + 64:
            # Or they would be as many as the log ever named.
            self._assets = {
                (<Light> one).asset.name: (<Light> one).asset
                for one in self._accounts.values() if (<Light> one).asset is not None
            }
        if excess <= 0 and self.lots <= most_lots:
            return 0
        for light in self._accounts.values():
            if len(gone) >= excess and self.lots <= most_lots:
                break
            gone.append(light.name)
            self.lots -= light.lots
        for name in gone:
            del self._accounts[name]
        return len(gone)

    cdef Asset asset(self, const unsigned char* text, int size):
        cdef bytes name = PyBytes_FromStringAndSize(<const char*> text, size)
        found = self._assets.get(name)
        if found is None:
            found = self._assets[name] = Asset(name)
        return <Asset> found

    cdef int put(self, Light light, tuple found) except -1:
        """Fill an account with what is stored of it, as `parts` of `Plan.settle` gives it."""
        cdef Lot lot
        light.version, light.available, lots = found
        light.state = READY
        for row in lots:
            lot = Lot.__new__(Lot)
            command_id, lot.number, lot_class, lot.priority, lot.effective_at, lot.expires_at, lot.made = row[:7]
            lot.source, lot.amount, lot.remaining, lot.spent, lot.others, lot.position, lot.is_stored = row[7:]
            lot.id = (<str> command_id).encode("ascii")
            lot.is_promo = lot_class == "promo"
            light.insert(lot)
        self.lots += light.lots
        return 0

    cdef bint fill(self, Light light, tuple row, int64_t clock_ms) except -1:
        """Fill an account with its balance as it is stored; False if it isn't light at an instant, or not right."""
        cdef const unsigned char* at
        cdef Py_ssize_t size
        cdef int64_t available, total = 0, next_due = NEVER
        cdef list lots = []
        cdef Lot lot
        _, asset, amount, _, _, _, _, version, text = row
        if (<str> asset).encode() != light.asset.name:
            return False
        available = amount
        at = <const unsigned char*> PyUnicode_AsUTF8AndSize(text, &size)
        cdef const unsigned char* end = at + size
        while at < end:
            lot = _inline_lot(&at, end)
            if lot is None or len(lots) == _MOST_LOTS or lot.remaining > MAX_BALANCE - total:
                return False
            total += lot.remaining
            if lot.expires_at and lot.expires_at < next_due:
                next_due = lot.expires_at
            lots.append(lot)
        if total != available or next_due <= clock_ms:
            return False
        light.version = version
        light.available = available
        light.state = READY
        for one in lots:
            light.insert(<Lot> one)
        self.lots += light.lots
        return True

    def take(self, Light light not None):
        """Forget an account; gives its version, asset, available credits, the place of an unwritten line (None if all
        are written), and its lots: as `parts` of `Plan.settle` gives them, with whether a change isn't written.
        """
        self._accounts.pop(light.name, None)
        self.lots -= light.lots
        cdef Lot lot = light.first
        cdef list lots = []
        while lot is not None:
            lots.append(_parts(lot))
            lot = lot.next
        if light.emptied is not None:
            lots += [_parts(<Lot> one) for one in light.emptied]
            light.emptied = None
        place = None
        if light.is_dirty:
            place = light.position
            light.is_dirty = False
            # It stays among them, or each that is taken out would cost as much as there are; `rows` passes it over.
            self._taken += 1
            if self._taken == len(self._dirty):
                self._dirty = []
                self._taken = 0
        asset = None if light.asset is None else light.asset.name.decode()
        return light.version, asset, light.available, place, lots

    def totals(self):
        """By asset what was issued and what was spent since this was asked last."""
        cdef list touched = self._touched
        self._touched = []
        return {(<Asset> asset).name.decode(): (<Asset> asset).take() for asset in touched}

    def rows(self, int64_t partition):
        """The rows to write, and from here on they count as written: of balances, of new lots, of changed lots.

        A lot gets a row when it is empty, or when there is no room for it in its balance. Each as the number of rows
        and, for each column of its table in projections/tables/account_tables.py, the texts joined or the cells of the
        numbers.
        """
        cdef list lights = _sorted([light for light in self._dirty if (<Light> light).is_dirty])
        cdef Light light
        cdef Lot lot
        cdef Columns balances = Columns(3, 5), lots = Columns(6, 21), changed = Columns(2, 15)
        cdef Bytes inline = <Bytes> balances._texts[2]
        cdef Py_ssize_t start
        cdef int64_t next_at
        for light in lights:
            light.is_dirty = False
            balances.text(0, light.name, False)
            balances.text(1, light.asset.name, False)
            balances.text(2, b"", True)
            balances.number(0, light.available)
            balances.number(1, light.version)
            balances.number(3, partition)
            balances.number(4, light.position)
            balances.count += 1
            start = inline.size
            next_at = NEVER
            if light.emptied is not None:
                for one in light.emptied:
                    _add(<Lot> one, light, lots, changed, partition)
                light.emptied = None
            lot = light.first
            while lot is not None:
                if lot.is_stored:
                    if lot.is_dirty:
                        _add(lot, light, lots, changed, partition)
                elif not _add_inline(inline, start, lot):
                    _add(lot, light, lots, changed, partition)
                elif lot.expires_at and lot.expires_at < next_at:
                    next_at = lot.expires_at
                lot = lot.next
            balances.number(2, -1 if next_at == NEVER else next_at)
        self._dirty = []
        self._taken = 0
        return (balances.taken(_BALANCES), lots.taken(_LOTS), changed.taken(_CHANGED_LOTS))


cdef tuple _parts(Lot lot):
    return (
        lot.id.decode(), lot.number, "promo" if lot.is_promo else "paid", lot.priority, lot.effective_at,
        lot.expires_at, lot.made, lot.source, lot.amount, lot.remaining, lot.spent, lot.others,
        lot.position, lot.is_stored, lot.is_dirty,
    )


# The columns of each table in order: texts by their number, numbers by theirs.
_BALANCES = ("t0", "t1", "n0", "n1", "t2", "n2", "n3", "n4")
_LOTS = (
    "t0", "t1", "n0", "t2", "t3", "n1", "n2", "n3", "t4", "n4", "t5", "n5", "n6", "n7", "n8", "n9", "n10", "n11", "n12",
    "n13", "n14", "n15", "n16", "n17", "n18", "n19", "n20",
)
_CHANGED_LOTS = (
    "t0", "t1", "n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10", "n11", "n12", "n13", "n14",
)


cdef int _add(Lot lot, Light light, Columns new, Columns changed, int64_t partition) except -1:
    """Add the row of a lot that was changed."""
    lot.is_dirty = False
    if lot.is_stored:
        _add_changed(changed, light, lot)
    else:
        lot.is_stored = True
        _add_new(new, light, lot, partition)
    return 0


cdef bint _add_inline(Bytes to, Py_ssize_t start, Lot lot) except -1:
    """Add a lot to a balance's line of lots (projections/tables/inline_lots.py), if there is room."""
    cdef int64_t expired = 0, voided = 0, forfeited = 0, reissued = 0, transferred = 0
    cdef Py_ssize_t size = PyBytes_GET_SIZE(lot.id), used = to.size - start
    cdef bytes source
    # All of the line but the id is at most so long.
    cdef char* begin = to.more(size + 400)
    cdef char* at = begin
    if used:
        at = _put(at, b"\n", 1)
    at = _put(at, PyBytes_AS_STRING(lot.id), size)
    at = _put_field(at, lot.made)
    at = _put_field(at, lot.effective_at)
    at = _put_field(at, lot.amount)
    at = _put_field(at, lot.remaining)
    at = _put_field(at, lot.position)
    if (
        lot.number != 1 or lot.is_promo or lot.priority != DEFAULT_PRIORITY or lot.expires_at or lot.others is not None
        or lot.source is not _ISSUED and lot.source != _ISSUED
    ):
        if lot.others is not None:
            expired, voided, forfeited, reissued, transferred = lot.others
        source = lot.source.encode()
        at = _put_field(at, lot.number)
        at = _put(at, b" promo" if lot.is_promo else b" paid", 6 if lot.is_promo else 5)
        at = _put_field(at, lot.priority)
        at = _put_field(at, lot.expires_at)
        at = _put(at, b" ", 1)
        at = _put(at, PyBytes_AS_STRING(source), PyBytes_GET_SIZE(source))
        at = _put_field(at, expired)
        at = _put_field(at, voided)
        at = _put_field(at, forfeited)
        at = _put_field(at, reissued)
        at = _put_field(at, transferred)
    if used + (at - begin) > _MOST_INLINE:
        return False
    lot.is_dirty = False
    to.size += at - begin
    return True


cdef Lot _inline_lot(const unsigned char** at, const unsigned char* end):
    """Read a lot that stands in a balance, and the end of its line; None if it isn't one."""
    cdef Lot lot = Lot.__new__(Lot)
    cdef const unsigned char* start = at[0]
    cdef const unsigned char* word
    cdef Py_ssize_t size
    cdef int64_t number, priority, expired, voided, forfeited, reissued, transferred
    while at[0] < end and at[0][0] != c" ":
        at[0] += 1
    size = at[0] - start
    if not 0 < size <= MAX_COMMAND_ID or not _all_of(start, size, 1):
        return None
    lot.id = PyBytes_FromStringAndSize(<const char*> start, size)
    if not (
        _field(at, end, &lot.made) and _field(at, end, &lot.effective_at) and _field(at, end, &lot.amount)
        and _field(at, end, &lot.remaining) and _field(at, end, &lot.position)
    ):
        return None
    lot.number = 1
    lot.priority = <short> DEFAULT_PRIORITY
    lot.source = _ISSUED
    lot.spent = lot.amount - lot.remaining
    if at[0] < end and at[0][0] == c" ":
        if not _field(at, end, &number) or number >= 2**31:
            return None
        lot.number = <int> number
        size = _word(at, end, &word)
        lot.is_promo = size == 5 and memcmp(word, b"promo", 5) == 0
        if not lot.is_promo and not (size == 4 and memcmp(word, b"paid", 4) == 0):
            return None
        if not _field(at, end, &priority) or priority >= 2**15 or not _field(at, end, &lot.expires_at):
            return None
        lot.priority = <short> priority
        size = _word(at, end, &word)
        if size < 1 or not _all_of(word, size, 1):
            return None
        lot.source = intern(PyUnicode_DecodeASCII(<const char*> word, size, NULL))
        if not (
            _field(at, end, &expired) and _field(at, end, &voided) and _field(at, end, &forfeited)
            and _field(at, end, &reissued) and _field(at, end, &transferred)
        ):
            return None
        others = (expired, voided, forfeited, reissued, transferred)
        lot.spent = lot.amount - lot.remaining - sum(others)
        if any(others):
            lot.others = others
    if lot.remaining < 1 or lot.spent < 0:
        return None
    if at[0] < end:
        if at[0][0] != c"\n" or at[0] + 1 == end:
            return None
        at[0] += 1
    return lot


cdef inline bint _field(const unsigned char** at, const unsigned char* end, int64_t* value) noexcept:
    """Read a space and a number."""
    cdef const unsigned char* text
    cdef Py_ssize_t size = _word(at, end, &text), place
    cdef uint64_t found = 0
    if not 0 < size < 20:
        return False
    for place in range(size):
        if not c"0" <= text[place] <= c"9":
            return False
        found = 10 * found + (text[place] - c"0")
    if found > <uint64_t> NEVER:
        return False
    value[0] = <int64_t> found
    return True


cdef inline Py_ssize_t _word(const unsigned char** at, const unsigned char* end, const unsigned char** text) noexcept:
    """Read a space and what comes before the next one, or before the line's end; gives its size, -1 if there is none."""
    if at[0] == end or at[0][0] != c" ":
        return -1
    at[0] += 1
    text[0] = at[0]
    while at[0] < end and at[0][0] != c" " and at[0][0] != c"\n":
        at[0] += 1
    return at[0] - text[0]


cdef inline char* _put_field(char* at, int64_t value) noexcept:
    at[0] = c" "
    return _put_number(at + 1, value)


cdef int _add_new(Columns to, Light light, Lot lot, int64_t partition) except -1:
    to.text(0, light.name, False)
    to.text(1, lot.id, False)
    to.text(2, light.asset.name, False)
    to.text(3, b"promo" if lot.is_promo else b"paid", True)
    to.text(4, b"", True)
    to.text(5, lot.source.encode(), True)
    to.number(0, lot.number)
    to.number(1, lot.priority)
    to.number(2, lot.effective_at)
    to.number(3, lot.expires_at)
    to.number(4, lot.made)
    to.number(5, lot.amount)
    _add_changing(to, 6, lot)
    to.number(19, partition)
    to.number(20, lot.position)
    to.count += 1
    return 0


cdef int _add_changed(Columns to, Light light, Lot lot) except -1:
    to.text(0, light.name, False)
    to.text(1, lot.id, False)
    to.number(0, lot.number)
    _add_changing(to, 1, lot)
    to.number(14, lot.position)
    to.count += 1
    return 0


cdef int _add_changing(Columns to, int at, Lot lot) except -1:
    """Add what can change of a lot, as numbers from one on. Nothing of it is held, pending, lapsed or void."""
    cdef int64_t expired = 0, voided = 0, forfeited = 0, reissued = 0, transferred = 0
    cdef bint is_live = lot.remaining > 0
    if lot.others is not None:
        expired, voided, forfeited, reissued, transferred = lot.others
    to.number(at, lot.remaining)
    to.number(at + 1, 0)
    to.number(at + 2, lot.spent)
    to.number(at + 3, expired)
    to.number(at + 4, voided)
    to.number(at + 5, forfeited)
    to.number(at + 6, reissued)
    to.number(at + 7, transferred)
    to.number(at + 8, 0)
    to.number(at + 9, 0)
    to.number(at + 10, 0)
    to.number(at + 11, is_live)
    to.number(at + 12, lot.expires_at if is_live and lot.expires_at else -1)
    return 0


# ---- Bytes on their way


@cython.final
cdef class Bytes:
    """Bytes that grow."""

    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t _room

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef char* more(self, Py_ssize_t size) except NULL:
        """Room for so many bytes at the end, which are not counted yet."""
        cdef Py_ssize_t room
        cdef char* data
        if self.size + size > self._room:
            room = max(2 * self._room, self.size + size, 4096)
            data = <char*> PyMem_Realloc(self.data, room)
            if data == NULL:
                raise MemoryError
            self.data = data
            self._room = room
        return self.data + self.size

    cdef bytes taken(self):
        return PyBytes_FromStringAndSize(self.data, self.size)


@cython.final
cdef class Columns:
    """Columns of a table, as projections/store/columns.py sends them: texts joined, numbers as cells of an array."""

    cdef list _texts
    cdef list _numbers
    cdef Py_ssize_t count

    def __cinit__(self, int texts, int numbers):
        self._texts = [Bytes() for _ in range(texts)]
        self._numbers = [Bytes() for _ in range(numbers)]

    cdef int text(self, int column, bytes value, bint may_be_empty) except -1:
        cdef Bytes to = <Bytes> self._texts[column]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
        cdef char* at = to.more(size + 2)
        if to.size:
            at[0] = 0x1F
            at += 1
            to.size += 1
        if may_be_empty:
            at[0] = c"="
            at += 1
            to.size += 1
        memcpy(at, PyBytes_AS_STRING(value), size)
        to.size += size
        return 0

    cdef int number(self, int column, int64_t value) except -1:
        cdef Bytes to = <Bytes> self._numbers[column]
        cdef char* at = to.more(12)
        cdef int place
        # Its length before it, both with the highest byte first.
        at[0] = at[1] = at[2] = 0
        at[3] = 8
        for place in range(8):
            at[4 + place] = <char> ((value >> (56 - 8 * place)) & 0xFF)
        to.size += 12
        return 0

    cdef tuple taken(self, tuple order):
        cdef list found = []
        for name in order:
            if name[0] == "t":
                found.append((<Bytes> self._texts[int(name[1:])]).taken().decode("ascii"))
            else:
                found.append((<Bytes> self._numbers[int(name[1:])]).taken())
        return self.count, found


cdef inline char* _put(char* at, const char* text, Py_ssize_t size) noexcept:
    memcpy(at, text, size)
    return at + size


cdef inline char* _put_number(char* at, int64_t value) noexcept:
    cdef char[24] digits
    cdef int size = 0
    cdef uint64_t left
    if value < 0:
        at[0] = c"-"
        at += 1
        left = <uint64_t> (-(value + 1)) + 1
    else:
        left = <uint64_t> value
    while True:
        digits[size] = <char> (48 + left % 10)
        size += 1
        left //= 10
        if left == 0:
            break
    while size:
        size -= 1
        at[0] = digits[size]
        at += 1
    return at


# ---- The order of names

cdef struct Named:
    uint64_t start
    uint64_t following
    const unsigned char* text
    Py_ssize_t size
    Py_ssize_t number


cdef inline uint64_t _eight(const unsigned char* text, Py_ssize_t size) noexcept:
    cdef uint64_t found = 0
    cdef int at
    for at in range(8):
        found = (found << 8) | (text[at] if at < size else 0)
    return found


cdef void _name(Named* to, bytes text, Py_ssize_t number) noexcept:
    to.text = <const unsigned char*> PyBytes_AS_STRING(text)
    to.size = PyBytes_GET_SIZE(text)
    to.number = number
    to.start = _eight(to.text, to.size)
    to.following = _eight(to.text + 8, to.size - 8) if to.size > 8 else 0


cdef int _compare(const void* left_at, const void* right_at) noexcept nogil:
    cdef const Named* left = <const Named*> left_at
    cdef const Named* right = <const Named*> right_at
    cdef int found
    cdef Py_ssize_t size
    if left.start != right.start:
        return -1 if left.start < right.start else 1
    if left.following != right.following:
        return -1 if left.following < right.following else 1
    if left.text != right.text:
        size = left.size if left.size < right.size else right.size
        found = memcmp(left.text, right.text, size)
        if found:
            return found
        if left.size != right.size:
            return -1 if left.size < right.size else 1
    return -1 if left.number < right.number else 1


cdef list _sorted(list lights):
    cdef Py_ssize_t at, count = len(lights)
    cdef Named* names
    if count < 2:
        return lights
    names = <Named*> PyMem_Malloc(count * sizeof(Named))
    if names == NULL:
        raise MemoryError
    try:
        for at in range(count):
            _name(&names[at], (<Light> lights[at]).name, at)
        qsort(names, count, sizeof(Named), _compare)
        return [lights[names[at].number] for at in range(count)]
    finally:
        PyMem_Free(names)


# ---- Lines of the journal

cdef struct Place:
    int64_t offset
    Py_ssize_t start
    Py_ssize_t size


@cython.final
@cython.no_gc
cdef class Hour:
    """What was spent in an hour, as projections/store/rows.py's `hours` sums it up."""

    cdef bytes asset
    cdef bytes source
    cdef bytes reason
    cdef int64_t number
    cdef int64_t amount
    # What no longer fitted in there.
    cdef object more
    cdef bint is_promo

    def __cinit__(self):
        self.more = 0

    cdef inline bint is_of(self, Plain plain, int64_t number, int reason_size) noexcept:
        return (
            self.number == number
            and PyBytes_GET_SIZE(self.source) == plain.source_size
            and PyBytes_GET_SIZE(self.reason) == reason_size
            and PyBytes_GET_SIZE(self.asset) == plain.asset_size
            and memcmp(PyBytes_AS_STRING(self.source), plain.source, plain.source_size) == 0
            and memcmp(PyBytes_AS_STRING(self.reason), plain.reason, reason_size) == 0
            and memcmp(PyBytes_AS_STRING(self.asset), plain.asset, plain.asset_size) == 0
        )


@cython.final
cdef class Lines:
    """Lines of the journal, in the order of the log, each as projections/store/chain.py's `credit_line` makes it."""

    cdef Bytes _text
    cdef Bytes _places
    # The account of each.
    cdef list _lights
    # Where the last one ends.
    cdef Py_ssize_t _ended
    # What was spent in each hour, and the last one of each class.
    cdef dict _hours
    cdef Hour _last_paid
    cdef Hour _last_promo
    # How many commands took effect, and how many were rejected.
    cdef int64_t granted
    cdef int64_t spends
    cdef int64_t grants_rejected
    cdef int64_t spends_rejected

    def __cinit__(self):
        self._text = Bytes()
        self._places = Bytes()
        self._lights = []
        self._hours = {}

    def decisions(self):
        """How many there were by kind and reason, which is empty where one took effect; none of which there was none."""
        counts = {
            ("grant", ""): self.granted,
            ("spend", ""): self.spends,
            ("grant", "balance_limit_exceeded"): self.grants_rejected,
            ("spend", "insufficient_credits"): self.spends_rejected,
        }
        return {decision: count for decision, count in counts.items() if count}

    def __len__(self):
        return len(self._lights)

    cdef int spent(self, Plain plain, int64_t clock_ms, bint is_promo, int64_t amount) except -1:
        """Count what a spend took of lots of a class."""
        cdef int64_t number = clock_ms // HOUR_MS
        cdef int reason_size = plain.reason_size if plain.reason_size < HOUR_REASON else HOUR_REASON
        cdef Hour hour = self._last_promo if is_promo else self._last_paid
        if hour is None or not hour.is_of(plain, number, reason_size):
            hour = self._hour(plain, number, is_promo, reason_size)
        hour.amount += amount
        if hour.amount > MAX_BALANCE:
            hour.more += hour.amount
            hour.amount = 0
        return 0

    cdef Hour _hour(self, Plain plain, int64_t number, bint is_promo, int reason_size):
        cdef Hour hour
        cdef bytes asset = PyBytes_FromStringAndSize(<const char*> plain.asset, plain.asset_size)
        cdef bytes source = PyBytes_FromStringAndSize(<const char*> plain.source, plain.source_size)
        cdef bytes reason = PyBytes_FromStringAndSize(<const char*> plain.reason, reason_size)
        key = (number, is_promo, asset, source, reason)
        found = self._hours.get(key)
        if found is None:
            hour = Hour.__new__(Hour)
            hour.number = number
            hour.is_promo = is_promo
            hour.asset = asset
            hour.source = source
            hour.reason = reason
            self._hours[key] = hour
        else:
            hour = <Hour> found
        if is_promo:
            self._last_promo = hour
        else:
            self._last_paid = hour
        return hour

    def hours(self):
        """What was spent, as `hours` of projections/store/rows.py gives it."""
        cdef Hour hour
        cdef dict found = {}
        for hour in self._hours.values():
            lot_class = "promo" if hour.is_promo else "paid"
            texts = (hour.asset.decode(), "spent", lot_class, hour.source.decode(), hour.reason.decode())
            found[(hour.number, *texts)] = hour.more + hour.amount
        return found

    def lines(self):
        """Each line with its offset, for whom it is few."""
        cdef Place* places = <Place*> self._places.data
        return [
            (places[at].offset, PyBytes_FromStringAndSize(self._text.data + places[at].start, places[at].size - 1))
            for at in range(len(self._lights))
        ]

    def link(self, bytes chain not None, int64_t start, int64_t end, others):
        """What `extend` of projections/store/chain.py gives for these lines and others, which are in order."""
        cdef Place* places = <Place*> self._places.data
        cdef Py_ssize_t at = 0, count = len(self._lights)
        cdef int64_t boundary = (start // CHECKPOINT_OFFSETS + 1) * CHECKPOINT_OFFSETS, offset
        cdef list checkpoints = []
        cdef object coming = iter(others)
        cdef object other = next(coming, None)
        cdef int64_t other_offset = NEVER if other is None else other[0]
        cdef bytes text
        cdef char* to
        cdef Py_ssize_t before
        while at < count or other is not None:
            if at < count and places[at].offset < other_offset:
                offset = places[at].offset
                before = PyBytes_GET_SIZE(chain)
                text = PyBytes_FromStringAndSize(NULL, before + places[at].size - 1)
                to = PyBytes_AS_STRING(text)
                memcpy(to, PyBytes_AS_STRING(chain), before)
                memcpy(to + before, self._text.data + places[at].start, places[at].size - 1)
                at += 1
            else:
                offset = other_offset
                text = chain + <bytes> other[1]
                other = next(coming, None)
                other_offset = NEVER if other is None else other[0]
            if offset >= boundary:
                checkpoints.append((offset // CHECKPOINT_OFFSETS * CHECKPOINT_OFFSETS, chain))
                boundary = (offset // CHECKPOINT_OFFSETS + 1) * CHECKPOINT_OFFSETS
            chain = blake2b(text, digest_size=32).digest()
        if end >= boundary:
            checkpoints.append((end // CHECKPOINT_OFFSETS * CHECKPOINT_OFFSETS, chain))
        return chain, checkpoints

    def by_account(self, Py_ssize_t size):
        """All lines in the order of their accounts, each with its end, in pieces of about so many bytes."""
        cdef Place* places = <Place*> self._places.data
        cdef Py_ssize_t at, count = len(self._lights)
        cdef Named* names = <Named*> PyMem_Malloc(max(count, 1) * sizeof(Named))
        cdef list pieces = []
        cdef Bytes piece = Bytes()
        cdef Place* place
        if names == NULL:
            raise MemoryError
        try:
            for at in range(count):
                _name(&names[at], (<Light> self._lights[at]).name, at)
            qsort(names, count, sizeof(Named), _compare)
            for at in range(count):
                place = &places[names[at].number]
                memcpy(piece.more(place.size), self._text.data + place.start, place.size)
                piece.size += place.size
                if piece.size >= size:
                    pieces.append(piece.taken())
                    piece.size = 0
            if piece.size:
                pieces.append(piece.taken())
        finally:
            PyMem_Free(names)
        return pieces


# ---- Reading records

cdef class Reader:
    """Which schema ids are those of grants and spends.

    `extra_of` gives what the journal keeps of the metadata that stand in a value from an offset up to its end, with
    themselves, and None where they aren't sound.
    """

    cdef dict _kinds
    cdef object _extra_of
    cdef uint32_t _last_id
    cdef int _last_kind

    def __cinit__(self, grants, spends, extra_of):
        self._extra_of = extra_of
        self._kinds = {**dict.fromkeys(grants, GRANT), **dict.fromkeys(spends, SPEND)}
        self._last_id = 0
        self._last_kind = 0

    cdef int kind(self, uint32_t schema_id) except -1:
        if schema_id != self._last_id or not self._last_kind:
            found = self._kinds.get(schema_id)
            if found is None:
                return 0
            self._last_id = schema_id
            self._last_kind = found
        return self._last_kind

    def read(self, records, int partition, int partitions, Store store, slow, partition_of):
        """Each record with the plain command that it holds, or with what `slow` makes of it.

        Args:
            records: of one partition.
            partition: its number.
            partitions: of the topic.
            store: inline accounts of the partition, whose place is known to be right.
            slow: reads a record, given it, the partition and how many there are.
            partition_of: returns a key's partition, given it and how many there are.
        """
        cdef list found = []
        cdef Plain plain
        for record in records:
            plain = self._plain(record)
            if plain is not None:
                light = store._accounts.get(plain.key)
                if light is not None:
                    plain.account = <Light> light
                elif partition_of(plain.key, partitions) != partition:
                    plain = None
            found.append((record, slow(record, partition, partitions) if plain is None else plain))
        return found

    cdef Plain _plain(self, record):
        cdef object offset, timestamp, key, value, headers
        if type(record) is LogRecord:
            # Its fields by their places: by their names they take five times as long.
            offset, timestamp, key, value, headers = <tuple> record
        else:
            offset, timestamp, key, value = record.offset, record.timestamp, record.key, record.value
            headers = record.headers
        if type(value) is not bytes or type(key) is not bytes:
            return None
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
        cdef const unsigned char* at = <const unsigned char*> PyBytes_AS_STRING(value)
        cdef const unsigned char* end = at + size
        cdef int kind
        cdef bytes own
        cdef Py_ssize_t own_size
        if size < 13 or at[0] != 0:
            return None
        kind = self.kind((<uint32_t> at[1] << 24) | (<uint32_t> at[2] << 16) | (<uint32_t> at[3] << 8) | at[4])
        if not kind:
            return None
        at += 5
        cdef Plain plain = Plain.__new__(Plain)
        cdef const unsigned char* account = NULL
        cdef int account_size
        plain.id_size = _text(&at, end, &plain.id)
        if not 0 < plain.id_size <= MAX_COMMAND_ID or plain.id[0] == c"~" or not _all_of(plain.id, plain.id_size, 1):
            return None
        account_size = _text(&at, end, &account)
        if not 0 < account_size <= MAX_ACCOUNT or not _all_of(account, account_size, 1):
            return None
        if PyBytes_GET_SIZE(key) != account_size or memcmp(PyBytes_AS_STRING(key), account, account_size):
            return None
        plain.asset_size = _text(&at, end, &plain.asset)
        if not 0 < plain.asset_size <= MAX_ASSET or not _all_of(plain.asset, plain.asset_size, 1):
            return None
        if not _long(&at, end, &plain.amount) or not 1 <= plain.amount <= MAX_AMOUNT:
            return None
        own = _GRANT_OWN if kind == GRANT else _SPEND_OWN
        own_size = PyBytes_GET_SIZE(own)
        if end - at < own_size or memcmp(at, PyBytes_AS_STRING(own), own_size):
            return None
        at += own_size
        if not _long(&at, end, &plain.occurred_at) or not 0 <= plain.occurred_at <= MAX_OCCURRED_AT:
            return None
        plain.source_size = _text(&at, end, &plain.source)
        if not 0 <= plain.source_size <= MAX_SOURCE or not _all_of(plain.source, plain.source_size, 2):
            return None
        plain.reason_size = _text(&at, end, &plain.reason)
        if not 0 <= plain.reason_size <= MAX_REASON or not _all_of(plain.reason, plain.reason_size, 2):
            return None
        if at == end:
            return None
        if at[0] != 0:
            said = self._extra_of(value, at - <const unsigned char*> PyBytes_AS_STRING(value))
            if said is None:
                return None
            plain.extra, plain.metadata = <tuple> said
        elif at + 1 != end:
            return None
        if headers:
            for header in headers:
                if header[0] == _REDRIVE_OF:
                    return None
        plain.value = value
        plain.key = key
        plain.kind = kind
        plain.offset = offset
        if plain.offset >> (63 - NUMBER_BITS):
            # What it made would have no number.
            return None
        plain.timestamp = timestamp
        return plain


_REDRIVE_OF = "redrive-of"


cdef inline int _text(const unsigned char** at, const unsigned char* end, const unsigned char** text) noexcept:
    """The size of the text there, -1 if there is none that is short."""
    cdef int64_t size
    if not _long(at, end, &size) or size < 0 or size > end - at[0]:
        return -1
    if size > 65536:
        return -1
    text[0] = at[0]
    at[0] += size
    return <int> size


cdef inline bint _long(const unsigned char** at, const unsigned char* end, int64_t* value) noexcept:
    """Read a number of at most nine bytes: what is longer isn't plain."""
    cdef uint64_t found = 0
    cdef int bits = 0
    cdef unsigned char byte
    while at[0] < end and bits < 63:
        byte = at[0][0]
        at[0] += 1
        found |= <uint64_t> (byte & 127) << bits
        if byte < 128:
            value[0] = <int64_t> (found >> 1) ^ -<int64_t> (found & 1)
            return True
        bits += 7
    return False


# ---- Folding


@cython.final
cdef class Plan:
    """How records of one partition are to be folded: which of them quickly, and what must be loaded for these.

    The steps, in their order: make it, take out of the store what `leaving` has, load what `missing` and `doubtful`
    name, `settle` it, take out what that gives, have slow records read, `fold`, and `end` whatever became of it.

    Args:
        store: cached inline accounts; gets those of these records.
        reads: as `Reader.read` gave them.
        seen: gets the ids of plain commands. None to look all of them up.
        trusts: whether an id that it hasn't seen is taken for new.
        clock_ms: the log's clock before them.
    """

    cdef Store _store
    cdef list _plains
    cdef list _lights
    #: Names of accounts to be loaded, if they are stored.
    cdef readonly list missing
    #: Keys (account, command id) to be looked up.
    cdef readonly list doubtful
    #: Light accounts that must be taken out of the store before anything is loaded.
    cdef readonly list leaving
    cdef int64_t _clock

    def __cinit__(self, Store store not None, list reads not None, Filter seen, bint trusts, int64_t clock_ms):
        cdef Plain plain
        cdef Light light
        cdef dict others = {}
        cdef list doubted = []
        cdef bint is_doubtful
        cdef int64_t timestamp
        self._store = store
        self._plains = []
        self._lights = []
        self.missing = []
        self.doubtful = []
        self.leaving = []
        self._clock = clock_ms
        for record, content in reads:
            if type(content) is Plain:
                plain = <Plain> content
                self._plains.append(plain)
                timestamp = plain.timestamp
            else:
                others[record.key] = None
                timestamp = record.timestamp
            if self._clock < timestamp <= MAX_OCCURRED_AT:
                self._clock = timestamp
        for plain in self._plains:
            light = plain.account
            if light is None or not light.is_of_part:
                light = self._light(plain, others)
            plain.account = light
            if light.asset is None:
                light.asset = store.asset(plain.asset, plain.asset_size)
            elif (
                PyBytes_GET_SIZE(light.asset.name) != plain.asset_size
                or memcmp(PyBytes_AS_STRING(light.asset.name), plain.asset, plain.asset_size)
            ):
                self._slow_down(light)
            is_doubtful = True
            if seen is not None:
                is_doubtful = seen._add(
                    <const unsigned char*> PyBytes_AS_STRING(plain.key), PyBytes_GET_SIZE(plain.key),
                    plain.id, plain.id_size,
                )
            if is_doubtful or not trusts:
                light.is_doubtful = True
                doubted.append(plain)
        if doubted:
            self._doubt(doubted)
        for key in others:
            found = store._accounts.get(key)
            if found is not None and not (<Light> found).is_of_part:
                # No plain command is about it, but others are.
                light = <Light> found
                light.is_of_part = True
                self._lights.append(light)
                self._slow_down(light)

    cdef Light _light(self, Plain plain, dict others):
        """The account of a plain command, met for the first time here."""
        cdef Light light
        found = self._store._accounts.get(plain.key)
        if found is None:
            light = Light.__new__(Light, plain.key)
            self._store._accounts[plain.key] = light
            # Even one that goes Python's way: what has it do so may be no command of its own.
            light.state = SLOW if plain.key in others else MISSING
            self.missing.append(light.name.decode())
        else:
            light = <Light> found
            if light.is_of_part:
                return light
            if plain.key in others or light.next_due <= self._clock or light.lots > _MOST_LOTS:
                self._slow_down(light)
        light.is_of_part = True
        light.is_doubtful = False
        self._lights.append(light)
        return light

    cdef int _slow_down(self, Light light) except -1:
        if light.state == READY:
            self.leaving.append(light)
        light.state = SLOW
        return 0

    cdef int _doubt(self, list doubted) except -1:
        """Have ids looked up that may have been decided before; those that come twice here go Python's way."""
        cdef Plain plain
        cdef dict times = {}
        for plain in doubted:
            times[_key(plain)] = 0
        for plain in self._plains:
            if plain.account.is_doubtful:
                key = _key(plain)
                if key in times:
                    times[key] += 1
                    if times[key] == 2:
                        self._slow_down(plain.account)
        self.doubtful = [key for key in times]
        return 0

    @property
    def has_slow(self):
        """Whether any plain command goes Python's way."""
        for light in self._lights:
            if (<Light> light).state == SLOW:
                return True
        return False

    def settle(self, loaded, known, parts, dict balances not None, to_python):
        """Take over what was loaded; gives what must go Python's way after all and must be taken out of the store.

        Args:
            loaded: accounts by name that were loaded, or are remembered Python's way.
            known: keys (account, command id) that were decided before.
            parts: gives the version, available credits and lots of an account, given its name, itself, the asset and
                the clock of the last record; None if it isn't light. Lots are (command id, number, class, priority,
                effective, expires, made, source, amount, remaining, spent, others, the place of its last change,
                whether it has a row), at most MOST_LOTS.
            balances: by name, the only one that an account has, which has nothing else; as it is stored.
            to_python: has the account of such a balance remembered Python's way, given its name.
        """
        cdef Light light
        cdef list gone = []
        for light in self._lights:
            if light.state == READY:
                continue
            name = light.name.decode()
            row = balances.get(name)
            if row is not None:
                if light.state == SLOW or not self._store.fill(light, row, self._clock):
                    light.state = SLOW
                    to_python(name)
            elif light.state == MISSING:
                account = loaded.get(name)
                if account is None:
                    light.state = READY
                else:
                    found = parts(name, account, light.asset.name.decode(), self._clock)
                    if found is None:
                        light.state = SLOW
                    else:
                        self._store.put(light, found)
            if light.state == SLOW and self._store._accounts.get(light.name) is light:
                del self._store._accounts[light.name]
        for name, _ in known:
            found = self._store._accounts.get(name.encode())
            if found is not None and (<Light> found).is_of_part and (<Light> found).state == READY:
                (<Light> found).state = SLOW
                gone.append(found)
        return gone

    def end(self):
        """Forget which accounts these records were about, done or not. What was left out of the store stays so."""
        cdef Light light
        for light in self._lights:
            light.is_of_part = False
            if light.state != READY and self._store._accounts.get(light.name) is light:
                del self._store._accounts[light.name]

    def fold(self, list reads not None, folding, int partition, int64_t clock_ms, most_made, Py_ssize_t most_bytes):
        """Fold reads in their order, those that aren't quick by `folding.add`.

        Gives the lines of the quick ones, and how many reads were folded: fewer than all if they make very much.
        """
        cdef Lines lines = Lines()
        cdef Plain plain
        cdef Light light
        cdef Py_ssize_t at, count = len(reads)
        cdef object book = folding.book
        cdef object content
        for at in range(count):
            if lines._text.size > most_bytes:
                return self._stopped(lines, at, book, clock_ms)
            record, content = reads[at]
            if type(content) is Plain:
                plain = <Plain> content
                light = plain.account
                if light is None or light.state != READY:
                    raise RuntimeError("a record that isn't for the fast path was left in it")
                if plain.timestamp > clock_ms and plain.timestamp <= MAX_OCCURRED_AT:
                    clock_ms = plain.timestamp
                self._decide(plain, light, lines, partition, clock_ms)
                continue
            if folding.made > most_made:
                return self._stopped(lines, at, book, clock_ms)
            book.clock_ms = clock_ms
            folding.add(record, content)
            book = folding.book
            clock_ms = book.clock_ms
        return self._stopped(lines, count, book, clock_ms)

    cdef tuple _stopped(self, Lines lines, Py_ssize_t at, book, int64_t clock_ms):
        book.clock_ms = clock_ms
        return lines, at

    cdef int _decide(self, Plain plain, Light light, Lines lines, int partition, int64_t clock_ms) except -1:
        """Decide one command, and write its line."""
        cdef int64_t amount = plain.amount, before = light.available, left, taken, promo = 0
        cdef const char* rejection = NULL
        cdef Lot lot = None, last = None
        cdef char* start
        cdef char* at
        cdef Place* place
        cdef bint is_grant = plain.kind == GRANT
        light.version += 1
        light.position = plain.offset
        if not light.is_dirty:
            light.is_dirty = True
            self._store._dirty.append(light)
        if is_grant:
            if amount > MAX_BALANCE - before:
                rejection = b"balance_limit_exceeded"
            else:
                lot = Lot.__new__(Lot)
                lot.id = PyBytes_FromStringAndSize(<const char*> plain.id, plain.id_size)
                lot.number = 1
                lot.source = _ISSUED
                lot.priority = <short> DEFAULT_PRIORITY
                lot.effective_at = clock_ms
                lot.made = (plain.offset << NUMBER_BITS) + 1
                lot.amount = lot.remaining = amount
                lot.is_dirty = True
                lot.position = plain.offset
                light.available += amount
        elif amount > before:
            rejection = b"insufficient_credits"
        else:
            light.available -= amount
        if not light.asset.is_touched:
            self._store._touched.append(light.asset)
        light.asset.add(0 if rejection != NULL or not is_grant else amount, 0 if rejection != NULL or is_grant else amount)
        # All of the line but the moves of a spend is at most so long.
        start = lines._text.more(
            700 + PyBytes_GET_SIZE(light.name) + 3 * plain.id_size + plain.asset_size + plain.source_size
            + plain.reason_size + (0 if plain.extra is None else PyBytes_GET_SIZE(plain.extra))
        )
        at = _put_number(start, partition)
        at = _put(at, b"\t", 1)
        at = _put_number(at, plain.offset)
        at = _put(at, b"\t", 1)
        at = _put(at, PyBytes_AS_STRING(light.name), PyBytes_GET_SIZE(light.name))
        at = _put(at, b"\t", 1)
        at = _put_number(at, light.version)
        at = _put(at, b"\t", 1)
        at = _put(at, <const char*> plain.id, plain.id_size)
        at = _put(at, b"\tgrant\t" if is_grant else b"\tspend\t", 7)
        at = _put(at, <const char*> plain.asset, plain.asset_size)
        at = _put(at, b"\t", 1)
        at = _put_number(at, amount)
        at = _put(at, b"\t", 1)
        at = _put_number(at, light.available - before)
        at = _put(at, b"\t", 1)
        at = _put_number(at, light.available)
        at = _put(at, b"\t", 1)
        if rejection == NULL:
            at = _put(at, b"\\N", 2)
        elif is_grant:
            at = _put(at, rejection, 22)
        else:
            at = _put(at, rejection, 20)
        at = _put(at, b"\t", 1)
        at = _put_number(at, RULES)
        at = _put(at, b"\t", 1)
        at = _put_number(at, clock_ms)
        at = _put(at, b"\t", 1)
        at = _put_number(at, plain.occurred_at)
        at = _put(at, b"\t", 1)
        at = _put(at, <const char*> plain.source, plain.source_size)
        at = _put(at, b"\t", 1)
        at = _put(at, <const char*> plain.reason, plain.reason_size)
        at = _put(at, b"\t\\\\x", 4)
        if plain.extra is not None:
            at = _put(at, PyBytes_AS_STRING(plain.extra), PyBytes_GET_SIZE(plain.extra))
        # Nothing pending, held or owed, no step, no details.
        at = _put(at, b"\t0\t0\t0\t\\N\t\t", 11)
        if rejection != NULL:
            at = _put(at, b"[]\n", 3)
            if is_grant:
                lines.grants_rejected += 1
            else:
                lines.spends_rejected += 1
        elif is_grant:
            at = _put(at, b'[{"kind":"granted","at":', 24)
            at = _put_number(at, clock_ms)
            at = _put(at, b',"ref":"', 8)
            at = _put(at, <const char*> plain.id, plain.id_size)
            at = _put(at, b'","moves":[["', 13)
            at = _put(at, <const char*> plain.id, plain.id_size)
            at = _put(at, b'",1,"issued","remaining",', 25)
            at = _put_number(at, amount)
            at = _put(at, b']],"terms":{"lot_class":"paid","priority":50,"effective_at":', 60)
            at = _put_number(at, clock_ms)
            at = _put(at, b',"expires_at":0,"scope":""}}]\n', 30)
            light.insert(lot)
            self._store.lots += 1
            lines.granted += 1
        else:
            at = _put(at, b'[{"kind":"spent","at":', 22)
            at = _put_number(at, clock_ms)
            at = _put(at, b',"ref":"', 8)
            at = _put(at, <const char*> plain.id, plain.id_size)
            at = _put(at, b'","moves":[', 11)
            left = amount
            while left > 0:
                lot = light.first
                if lot is None:
                    raise RuntimeError(f"account {light.name!r} has {before} in its balance, and less in its lots")
                taken = left if left < lot.remaining else lot.remaining
                left -= taken
                if lot.is_promo:
                    promo += taken
                lot.remaining -= taken
                lot.spent += taken
                lot.is_dirty = True
                lot.position = plain.offset
                # Each move may be as long as this.
                lines._text.size += at - start
                start = lines._text.more(600)
                at = start
                at = _put(at, b'["', 2)
                at = _put(at, PyBytes_AS_STRING(lot.id), PyBytes_GET_SIZE(lot.id))
                at = _put(at, b'",', 2)
                at = _put_number(at, lot.number)
                at = _put(at, b',"remaining","spent",', 21)
                at = _put_number(at, taken)
                at = _put(at, b"]," if left else b"]", 2 if left else 1)
                if lot.remaining == 0:
                    self._store.lots -= 1
                    light.drop_first()
            at = _put(at, b"]}]\n", 4)
            lines.spends += 1
            if promo:
                lines.spent(plain, clock_ms, True, promo)
            if promo < amount:
                lines.spent(plain, clock_ms, False, amount - promo)
        lines._text.size += at - start
        place = <Place*> lines._places.more(sizeof(Place))
        lines._places.size += sizeof(Place)
        place.offset = plain.offset
        place.start = lines._ended
        place.size = lines._text.size - lines._ended
        lines._ended = lines._text.size
        lines._lights.append(light)
        return 0


_ISSUED = "issued"


cdef inline tuple _key(Plain plain):
    return plain.key.decode(), PyUnicode_DecodeASCII(<const char*> plain.id, plain.id_size, NULL)
