# cython: boundscheck=False, wraparound=False, cdivision=True
"""The columnar codec of telemetry batches: the compiled twin of `_columns_py`, which states the format."""

from cpython cimport array as c_array
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .layout cimport COLUMN_COUNT, GPU_HEADER_BYTES, HEADER_BYTES, ROW_BYTES, gpu_words

import array

from flyball_fast._columns_py import MAX_BLOCKS as BLOCKS
from flyball_fast._columns_py import MAX_ROWS as ROWS
from flyball_fast._columns_py import MAX_VALUES as VALUES
from flyball_fast._columns_py import QUANTA as _QUANTA
from flyball_fast._columns_py import VERSION as _VERSION
from flyball_fast._columns_py import Block
from flyball_fast.errors import ColumnsError

cdef enum:
    KIND_VARINT = 5
    KIND_SPARSE = 6
    HAS_UNKNOWN = 8
    FROM_FIRST_BLOCK = 16
    MOST_PER_VALUE = 24  # bytes: a gap and a step, both varints of 10, and some more

cdef int64_t[COLUMN_COUNT] QUANTA = _QUANTA
cdef int64_t MAX_BLOCKS = BLOCKS
cdef int64_t MAX_ROWS = ROWS
cdef int64_t MAX_VALUES = VALUES
cdef int VERSION = _VERSION
cdef c_array.array EMPTY = array.array("q")


def gather(
    const uint8_t[::1] memory not None, int64_t gpu, int64_t capacity, int64_t first, int64_t stop,
    int64_t real_minus_mono_ns
):
    """Copy rows first..stop-1 of a ring; whoever asks must ask the ring afterwards whether they were intact."""
    cdef int64_t rows = stop - first
    if capacity <= 0 or capacity & (capacity - 1) or gpu < 0 or first < 0 or not 0 <= rows <= capacity:
        raise ValueError(f"gpu {gpu}, capacity {capacity}, rows {first}..{stop}: not of a ring")
    if memory.shape[0] < HEADER_BYTES + (gpu + 1) * (GPU_HEADER_BYTES + ROW_BYTES * capacity):
        raise ValueError(f"gpu {gpu}: beyond a ring of {memory.shape[0]} bytes")
    cdef c_array.array values = c_array.clone(EMPTY, rows * COLUMN_COUNT, False)
    cdef const uint8_t *data = <const uint8_t *>gpu_words(<uint8_t *>&memory[0], gpu, capacity) + GPU_HEADER_BYTES
    if rows:
        with nogil:
            _gather(data, capacity, first, rows, real_minus_mono_ns, <int64_t *>values.data.as_longlongs)
    return Block(gpu, rows, memoryview(values))


cdef int64_t _known64(uint64_t value) noexcept nogil:
    return INT64_MIN if value >> 63 else <int64_t>value


cdef void _gather(
    const uint8_t *data, int64_t capacity, int64_t first, int64_t rows, int64_t shift, int64_t *out
) noexcept nogil:
    cdef int64_t i, slot, time
    cdef int column
    cdef uint32_t wide
    cdef uint16_t narrow
    for i in range(rows):
        slot = (first + i) & (capacity - 1)
        time = (<const int64_t *>data)[slot]
        out[i] = INT64_MIN if time == INT64_MIN else time + shift
        for column in range(1, 6):
            out[column * rows + i] = _known64((<const uint64_t *>(data + 8 * column * capacity))[slot])
        for column in range(6, 8):
            wide = (<const uint32_t *>(data + (48 + 4 * (column - 6)) * capacity))[slot]
            out[column * rows + i] = INT64_MIN if wide == <uint32_t>-1 else <int64_t>wide
        for column in range(8, 11):
            narrow = (<const uint16_t *>(data + (56 + 2 * (column - 8)) * capacity))[slot]
            out[column * rows + i] = INT64_MIN if narrow == 0xFFFF else <int64_t>narrow
        time = (<const int8_t *>(data + 62 * capacity))[slot]
        out[11 * rows + i] = INT64_MIN if time == -128 else time
        time = (data + 63 * capacity)[slot]
        out[12 * rows + i] = INT64_MIN if time == 0xFF else time


cdef struct Writer:
    uint8_t *at


cdef inline void _put(Writer *writer, uint8_t byte) noexcept nogil:
    writer.at[0] = byte
    writer.at += 1


cdef inline void _put_varint(Writer *writer, int64_t value) noexcept nogil:
    cdef uint64_t left = (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)
    while left > 127:
        _put(writer, (left & 127) | 128)
        left >>= 7
    _put(writer, <uint8_t>left)


cdef inline int _varint_size(int64_t value) noexcept nogil:
    cdef uint64_t left = (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)
    cdef int size = 1
    while left > 127:
        size += 1
        left >>= 7
    return size


cdef inline int64_t _floor(int64_t value, int64_t quantum) noexcept nogil:
    cdef int64_t down = value // quantum
    return down - 1 if value % quantum and value < 0 else down


cdef inline int64_t _less(int64_t a, int64_t b) noexcept nogil:
    return <int64_t>(<uint64_t>a - <uint64_t>b)


cdef inline int64_t _plus(int64_t a, int64_t b) noexcept nogil:
    return <int64_t>(<uint64_t>a + <uint64_t>b)


def encode(int64_t base_unix_us, blocks):
    """Pack blocks into one batch; raise `ColumnsError` when a decoder would not take it."""
    cdef int64_t total = _check_size(blocks)
    cdef int64_t most = 16 + len(blocks) * (8 + COLUMN_COUNT * 16) + total * MOST_PER_VALUE
    cdef int64_t widest = max([block.rows for block in blocks], default=0)
    cdef uint8_t *out = <uint8_t *>malloc(most)
    cdef int64_t *work = <int64_t *>malloc(8 * (3 * widest + 1))
    cdef Writer writer
    if out is NULL or work is NULL:
        free(out)
        free(work)
        raise MemoryError
    writer.at = out
    try:
        _put(&writer, VERSION)
        memcpy(writer.at, &base_unix_us, 8)
        writer.at += 8
        _put(&writer, <uint8_t>len(blocks))
        for block in blocks:
            _put_block(&writer, block, blocks[0], base_unix_us, work)
        return PyBytes_FromStringAndSize(<char *>out, writer.at - out)
    finally:
        free(out)
        free(work)


cdef int64_t _check_size(blocks) except -1:
    cdef int64_t total = 0
    if len(blocks) > MAX_BLOCKS:
        raise ColumnsError(f"{len(blocks)} blocks, expected at most {MAX_BLOCKS}")
    for block in blocks:
        if not 0 <= block.rows <= MAX_ROWS or len(block.values) != block.rows * COLUMN_COUNT:
            raise ColumnsError(f"gpu {block.gpu}: {len(block.values)} values for {block.rows} rows")
        if not 0 <= block.gpu < MAX_BLOCKS:
            raise ColumnsError(f"gpu {block.gpu}, expected 0..{MAX_BLOCKS - 1}")
        total += block.rows * COLUMN_COUNT
    if total > MAX_VALUES:
        raise ColumnsError(f"{total} values, expected at most {MAX_VALUES}")
    return total


cdef int _put_block(Writer *writer, block, first, int64_t base_unix_us, int64_t *work) except -1:
    cdef const int64_t[::1] values = block.values
    cdef const int64_t[::1] reference = first.values
    cdef uint16_t rows = block.rows
    cdef uint16_t mask = 0
    cdef bint is_later = block is not first and first.rows == block.rows
    cdef int column
    cdef int64_t i
    for column in range(COLUMN_COUNT):
        for i in range(rows):
            if values[column * rows + i] != INT64_MIN:
                mask |= 1 << column
                break
    _put(writer, block.gpu)
    memcpy(writer.at, &rows, 2)
    memcpy(writer.at + 2, &mask, 2)
    writer.at += 4
    for column in range(COLUMN_COUNT):
        if mask >> column & 1:
            _put_column(
                writer, &values[column * rows], rows, QUANTA[column], base_unix_us * 1000 if column == 0 else 0,
                &reference[0] if is_later and column == 0 else NULL, work
            )
    return 0


cdef bint _is_whole(const int64_t *values, int64_t rows) noexcept nogil:
    cdef int64_t i
    for i in range(rows):
        if values[i] == INT64_MIN:
            return False
    return True


cdef void _put_column(
    Writer *writer, const int64_t *values, int64_t rows, int64_t quantum, int64_t shift, const int64_t *reference,
    int64_t *work
) noexcept nogil:
    cdef int64_t *whole = work
    cdef int64_t *steps = work + rows
    cdef uint8_t *tag = writer.at
    cdef bint is_whole = _is_whole(values, rows)
    cdef int64_t i
    _put(writer, 0)
    _fill(values, rows, quantum, shift, whole)
    if reference is not NULL and is_whole and _is_whole(reference, rows):
        tag[0] |= FROM_FIRST_BLOCK
        for i in range(rows):
            whole[i] = _less(whole[i], _floor(_less(reference[i], shift), quantum))
    if not is_whole:
        tag[0] |= HAS_UNKNOWN
        memset(writer.at, 0, (rows + 7) // 8)
        for i in range(rows):
            if values[i] == INT64_MIN:
                writer.at[i // 8] |= 1 << (i % 8)
        writer.at += (rows + 7) // 8
    _put_varint(writer, whole[0])
    if rows > 1:
        for i in range(rows - 1):
            steps[i] = _less(whole[i + 1], whole[i])
        tag[0] |= _put_steps(writer, steps, rows - 1)


cdef void _fill(const int64_t *values, int64_t rows, int64_t quantum, int64_t shift, int64_t *whole) noexcept nogil:
    """Quantize; fill each unknown with the value before it, the first ones with the first known value."""
    cdef int64_t i
    cdef int64_t last = 0
    for i in range(rows):
        if values[i] != INT64_MIN:
            last = _floor(_less(values[i], shift), quantum)
            break
    for i in range(rows):
        if values[i] != INT64_MIN:
            last = _floor(_less(values[i], shift), quantum)
        whole[i] = last


cdef struct Sizes:
    int64_t middle
    int width
    int64_t fixed
    int64_t centred
    int64_t plain
    int64_t sparse
    int64_t changed


cdef void _measure(const int64_t *steps, int64_t count, Sizes *sizes) noexcept nogil:
    cdef int64_t least = steps[0]
    cdef int64_t most = steps[0]
    cdef int64_t i, deviation
    cdef int64_t low = 0
    cdef int64_t high = 0
    cdef int64_t gap = 0
    for i in range(count):
        least = min(least, steps[i])
        most = max(most, steps[i])
    sizes.middle = (least & most) + ((least ^ most) >> 1)  # the floor of their mean, without overflow
    sizes.centred = sizes.plain = sizes.sparse = sizes.changed = 0
    for i in range(count):
        deviation = _less(steps[i], sizes.middle)
        low = min(low, deviation)
        high = max(high, deviation)
        sizes.centred += _varint_size(deviation)
        sizes.plain += _varint_size(steps[i])
        if steps[i]:
            sizes.sparse += _varint_size(gap) + _varint_size(steps[i])
            sizes.changed += 1
            gap = 0
        else:
            gap += 1
    sizes.sparse += _varint_size(sizes.changed) + 1
    sizes.plain += 1
    sizes.centred += _varint_size(sizes.middle)
    if low == 0 and high == 0:
        sizes.width = 0
    elif low == <int8_t>low and high == <int8_t>high:
        sizes.width = 1
    elif low == <int16_t>low and high == <int16_t>high:
        sizes.width = 2
    elif low == <int32_t>low and high == <int32_t>high:
        sizes.width = 4
    else:
        sizes.width = 8
    sizes.fixed = _varint_size(sizes.middle) + sizes.width * count


cdef int _put_steps(Writer *writer, const int64_t *steps, int64_t count) noexcept nogil:
    """Write the differences the shortest way; return its kind."""
    cdef Sizes sizes
    cdef int64_t best
    cdef int64_t i
    _measure(steps, count, &sizes)
    best = min(min(sizes.fixed, sizes.centred), min(sizes.plain, sizes.sparse))
    if sizes.width == 0 or sizes.fixed == best:
        _put_varint(writer, sizes.middle)
        _put_fixed(writer, steps, count, sizes.middle, sizes.width)
        return _kind_of_width(sizes.width)
    if sizes.centred == best:
        _put_varint(writer, sizes.middle)
        for i in range(count):
            _put_varint(writer, _less(steps[i], sizes.middle))
        return KIND_VARINT
    _put_varint(writer, 0)
    if sizes.plain == best:
        for i in range(count):
            _put_varint(writer, steps[i])
        return KIND_VARINT
    _put_sparse(writer, steps, count, sizes.changed)
    return KIND_SPARSE


cdef int _kind_of_width(int width) noexcept nogil:
    if width <= 2:
        return width
    return 3 if width == 4 else 4


cdef void _put_fixed(Writer *writer, const int64_t *steps, int64_t count, int64_t middle, int width) noexcept nogil:
    cdef int64_t i, deviation
    for i in range(count):
        deviation = _less(steps[i], middle)
        memcpy(writer.at, &deviation, width)
        writer.at += width


cdef void _put_sparse(Writer *writer, const int64_t *steps, int64_t count, int64_t changed) noexcept nogil:
    cdef int64_t i
    cdef int64_t gap = 0
    _put_varint(writer, changed)
    for i in range(count):
        if steps[i]:
            _put_varint(writer, gap)
            _put_varint(writer, steps[i])
            gap = 0
        else:
            gap += 1


cdef struct Reader:
    const uint8_t *at
    const uint8_t *end
    const char *problem


cdef inline bint _has(Reader *reader, int64_t count) noexcept nogil:
    if reader.end - reader.at < count:
        reader.problem = "a batch that ends too early"
        return False
    return True


cdef inline int64_t _varint(Reader *reader) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint8_t byte
    cdef int shift = 0
    while shift < 70:
        if not _has(reader, 1):
            return 0
        byte = reader.at[0]
        reader.at += 1
        if shift == 63 and byte > 1:
            break
        value |= <uint64_t>(byte & 127) << shift
        if byte < 128:
            return <int64_t>(value >> 1) ^ -<int64_t>(value & 1)
        shift += 7
    reader.problem = "a number of more than 64 bits"
    return 0


def decode(data):
    """Unpack a batch into its base (Unix µs) and blocks; raise `ColumnsError` for anything else."""
    cdef const uint8_t[::1] view = memoryview(data).cast("B")
    cdef Reader reader
    cdef int64_t base, rows, total = 0
    cdef int count
    cdef uint16_t mask
    cdef object first = None
    if view.shape[0] < 10:
        raise ColumnsError("a batch that ends too early")
    reader.at, reader.end, reader.problem = &view[0], &view[0] + view.shape[0], NULL
    if reader.at[0] != VERSION:
        raise ColumnsError(f"batch version {reader.at[0]}, expected {VERSION}")
    memcpy(&base, reader.at + 1, 8)
    count = reader.at[9]
    reader.at += 10
    if count > MAX_BLOCKS:
        raise ColumnsError(f"{count} blocks, expected at most {MAX_BLOCKS}")
    blocks = []
    for _ in range(count):
        if not _has(&reader, 5):
            raise ColumnsError("a batch that ends too early")
        gpu, rows = reader.at[0], reader.at[1] | reader.at[2] << 8
        mask = reader.at[3] | reader.at[4] << 8
        reader.at += 5
        total += rows * COLUMN_COUNT
        if gpu >= MAX_BLOCKS or rows > MAX_ROWS or total > MAX_VALUES or mask >> COLUMN_COUNT:
            raise ColumnsError(f"a block of gpu {gpu}, {rows} rows and columns {mask:#x}: beyond the bounds")
        if mask and not rows:
            raise ColumnsError(f"gpu {gpu}: columns {mask:#x} of no rows")
        blocks.append(_take_block(&reader, gpu, rows, mask, first, base))
        if first is None:
            first = blocks[0]
    if reader.at != reader.end:
        raise ColumnsError(f"{reader.end - reader.at} bytes behind the batch")
    return base, blocks


cdef object _take_block(Reader *reader, int gpu, int64_t rows, uint16_t mask, first, int64_t base):
    cdef c_array.array values = c_array.clone(EMPTY, rows * COLUMN_COUNT, False)
    cdef c_array.array times
    cdef int64_t *out = <int64_t *>values.data.as_longlongs
    cdef const int64_t *reference = NULL
    cdef int64_t shift = <int64_t>(<uint64_t>base * 1000)
    cdef int column
    cdef int64_t i
    if first is not None and first.rows == rows and rows:
        times = first.values.obj
        reference = <const int64_t *>times.data.as_longlongs
    with nogil:
        for column in range(COLUMN_COUNT if rows else 0):
            if mask >> column & 1:
                _take_column(
                    reader, rows, QUANTA[column], shift if column == 0 else 0, reference if column == 0 else NULL,
                    &out[column * rows]
                )
                if reader.problem is not NULL:
                    break
            else:
                for i in range(rows):
                    out[column * rows + i] = INT64_MIN
    if reader.problem is not NULL:
        raise ColumnsError((<bytes>reader.problem).decode())
    return Block(gpu, rows, memoryview(values))


cdef void _take_column(
    Reader *reader, int64_t rows, int64_t quantum, int64_t shift, const int64_t *reference, int64_t *out
) noexcept nogil:
    cdef uint8_t tag
    cdef const uint8_t *unknown = NULL
    cdef int64_t i
    if not _has(reader, 1):
        return
    tag = reader.at[0]
    reader.at += 1
    if (tag & 7) > KIND_SPARSE or tag >> 5:
        reader.problem = "a column of an unknown tag"
        return
    if tag & FROM_FIRST_BLOCK and (reference is NULL or not _is_whole(reference, rows)):
        reader.problem = "a column that counts from rows which are not there"
        return
    if tag & HAS_UNKNOWN:
        if not _has(reader, (rows + 7) // 8):
            return
        unknown = reader.at
        reader.at += (rows + 7) // 8
    out[0] = _varint(reader)
    if rows > 1:
        _take_steps(reader, tag & 7, rows, out)
    if reader.problem is not NULL:
        return
    for i in range(rows):
        if tag & FROM_FIRST_BLOCK:
            out[i] = _plus(out[i], _floor(_less(reference[i], shift), quantum))
        out[i] = <int64_t>(<uint64_t>out[i] * <uint64_t>quantum + <uint64_t>shift)
        if unknown is not NULL and unknown[i // 8] >> (i % 8) & 1:
            out[i] = INT64_MIN


cdef void _take_steps(Reader *reader, int kind, int64_t rows, int64_t *out) noexcept nogil:
    cdef int64_t step = _varint(reader)
    cdef int width = 1 << (kind - 1) if 1 <= kind <= 4 else 0
    cdef int64_t i
    if reader.problem is not NULL or not _has(reader, width * (rows - 1)):
        return
    if kind == KIND_SPARSE:
        _take_sparse(reader, step, rows, out)
        return
    for i in range(1, rows):
        out[i] = _plus(out[i - 1], step)
        if kind == 1:
            out[i] = _plus(out[i], <int8_t>reader.at[0])
        elif kind == 2:
            out[i] = _plus(out[i], <int16_t>(reader.at[0] | reader.at[1] << 8))
        elif kind == 3:
            out[i] = _plus(out[i], _int32(reader.at))
        elif kind == 4:
            out[i] = _plus(out[i], _int64(reader.at))
        elif kind == KIND_VARINT:
            out[i] = _plus(out[i], _varint(reader))
            if reader.problem is not NULL:
                return
        reader.at += width


cdef inline int64_t _int32(const uint8_t *at) noexcept nogil:
    cdef int32_t value
    memcpy(&value, at, 4)
    return value


cdef inline int64_t _int64(const uint8_t *at) noexcept nogil:
    cdef int64_t value
    memcpy(&value, at, 8)
    return value


cdef void _take_sparse(Reader *reader, int64_t step, int64_t rows, int64_t *out) noexcept nogil:
    cdef int64_t changed = _varint(reader)
    cdef int64_t gap
    cdef int64_t i = 1
    cdef int64_t next_change = 0
    if reader.problem is not NULL:
        return
    if not 0 <= changed < rows:
        reader.problem = "more changes than rows"
        return
    while changed:
        gap = _varint(reader)
        if reader.problem is not NULL:
            return
        if gap < 0 or gap >= rows - i:
            reader.problem = "a change behind the last row"
            return
        next_change = i + gap
        while i < next_change:
            out[i] = _plus(out[i - 1], step)
            i += 1
        out[i] = _plus(_plus(out[i - 1], step), _varint(reader))
        if reader.problem is not NULL:
            return
        i += 1
        changed -= 1
    while i < rows:
        out[i] = _plus(out[i - 1], step)
        i += 1
