# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Choose the host of one request in one pass over the fleet; the pure twin states what each step computes."""

from array import array

from libc.math cimport ceil, exp, floor
from libc.stdint cimport int16_t, int32_t, int64_t, int8_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

ctypedef int64_t i64


cdef enum:
    WIDTH = 16       # GPUs of one host at most
    FGD = 0
    QFGD = 1
    QFGD_POWER = 2
    BEST_FIT = 3
    PACKING = 4
    SPREAD = 5
    DOT_PRODUCT = 6
    RANDOM = 7

cdef struct Row:
    i64 cpu
    i64 memory
    i64 milli
    i64 gpu_memory
    int32_t gpus
    uint8_t* models
    double* gradient
    double* watts
    int16_t* sigmoid
    int8_t* gpu_rounded
    int8_t* gpu_exact
    int32_t* version


cdef void free_row(Row* row) noexcept nogil:
    free(row.models)
    free(row.gradient)
    free(row.watts)
    free(row.sigmoid)
    free(row.gpu_rounded)
    free(row.gpu_exact)
    free(row.version)
    free(row)


cdef Row* new_row(int hosts, int models) noexcept nogil:
    cdef Row* row = <Row*>calloc(1, sizeof(Row))
    if row == NULL:
        return NULL
    row.models = <uint8_t*>malloc(models)
    row.gradient = <double*>malloc(hosts * sizeof(double))
    row.watts = <double*>malloc(hosts * sizeof(double))
    row.sigmoid = <int16_t*>malloc(hosts * sizeof(int16_t))
    row.gpu_rounded = <int8_t*>malloc(hosts)
    row.gpu_exact = <int8_t*>malloc(hosts)
    row.version = <int32_t*>calloc(hosts, sizeof(int32_t))
    if (row.models == NULL or row.gradient == NULL or row.watts == NULL or row.sigmoid == NULL
            or row.gpu_rounded == NULL or row.gpu_exact == NULL or row.version == NULL):
        free_row(row)
        return NULL
    return row


cdef class Scorer:
    """Scores of every host for every known request, kept until the host changes. See the pure twin."""

    cdef readonly int hosts, width
    cdef int kinds, models
    cdef i64[::1] cpu_left, cpu_total, memory_left
    cdef i64[:, ::1] gpu_left, gpu_memory_left
    cdef int32_t[::1] gpu_count, model
    cdef i64[::1] kind_cpu, kind_milli
    cdef int32_t[::1] kind_gpus
    cdef double[::1] kind_share
    cdef uint8_t[:, ::1] kind_models
    cdef double[::1] idle_w, busy_w
    cdef double socket_idle_w, socket_busy_w, socket_cores
    cdef double cpu_scale, gpu_scale
    cdef double quantum
    cdef double[::1] fragment, draw
    cdef i64[::1] free_milli
    cdef int32_t[::1] version
    cdef Row** rows
    cdef int used, room
    cdef uint64_t state

    def __init__(self, *, cpu_left, cpu_total, memory_left, gpu_left, gpu_memory_left, gpu_count, model,
                 kind_cpu, kind_gpus, kind_milli, kind_share, kind_models, idle_w, busy_w,
                 socket=(15.0, 120.0, 16.0), cpu_scale, gpu_scale, quantum=0.04, seed=0):
        cdef int host
        self.cpu_left, self.cpu_total, self.memory_left = cpu_left, cpu_total, memory_left
        self.gpu_left, self.gpu_memory_left = gpu_left, gpu_memory_left
        self.gpu_count, self.model = gpu_count, model
        self.hosts, self.width = gpu_left.shape[0], gpu_left.shape[1]
        if self.width > WIDTH:
            raise ValueError(f"hosts have {self.width} GPUs: expected at most {WIDTH}")
        self.kind_cpu, self.kind_gpus, self.kind_milli = kind_cpu, kind_gpus, kind_milli
        self.kind_share, self.kind_models = kind_share, kind_models
        self.kinds, self.models = len(kind_share), len(idle_w)
        self.idle_w, self.busy_w = idle_w, busy_w
        self.socket_idle_w, self.socket_busy_w, self.socket_cores = socket
        self.cpu_scale, self.gpu_scale, self.quantum = cpu_scale, gpu_scale, quantum
        self.fragment, self.draw = array("d", bytes(8 * self.hosts)), array("d", bytes(8 * self.hosts))
        self.free_milli, self.version = array("q", bytes(8 * self.hosts)), array("i", bytes(4 * self.hosts))
        self.state = (<uint64_t>(seed & 0xFFFFFFFF)) * 2654435761u + 88172645463325252u
        for host in range(self.hosts):
            self.update(host)

    def __dealloc__(self):
        cdef int index
        for index in range(self.used):
            if self.rows[index] != NULL:
                free_row(self.rows[index])
        free(self.rows)

    def add_request(self, i64 cpu_milli, i64 memory_mib, int gpus, i64 gpu_milli, i64 gpu_memory_mib, models):
        """Return the number by which `pick` knows this request; models is a sequence of 0/1, one per model."""
        cdef Row** grown
        cdef int index
        if len(models) != self.models:
            raise ValueError(f"request allows {len(models)} models: expected one flag for each of {self.models}")
        if self.used == self.room:
            grown = <Row**>calloc(2 * self.room + 8, sizeof(Row*))
            if grown == NULL:
                raise MemoryError()
            for index in range(self.used):
                grown[index] = self.rows[index]
            free(self.rows)
            self.rows, self.room = grown, 2 * self.room + 8
        cdef Row* row = new_row(self.hosts, self.models)
        if row == NULL:
            raise MemoryError()
        row.cpu, row.memory, row.milli, row.gpu_memory, row.gpus = (
            cpu_milli, memory_mib, gpu_milli, gpu_memory_mib, gpus)
        for index in range(self.models):
            row.models[index] = 1 if models[index] else 0
        self.rows[self.used] = row
        self.used += 1
        return self.used - 1

    def refresh(self, int host):
        """Take note that the arrays of this host changed."""
        if host < 0 or host >= self.hosts:
            raise IndexError(f"host {host}: expected 0..{self.hosts - 1}")
        self.update(host)

    def refresh_all(self):
        """Take note that any host may have changed."""
        cdef int host
        for host in range(self.hosts):
            self.update(host)

    def fragmentation_milli(self):
        """Return the sum over hosts of idle GPU milli that the expected jobs cannot use."""
        cdef double total = 0
        cdef int host
        for host in range(self.hosts):
            total += self.fragment[host]
        return total

    def power_w(self):
        """Return the predicted draw of all hosts."""
        cdef double total = 0
        cdef int host
        for host in range(self.hosts):
            total += self.draw[host]
        return total

    def warm(self, int request):
        """Score the request on every host now, so that its first decision costs no more than the next."""
        cdef Row* row = self.row_of(request)
        cdef int host
        with nogil:
            for host in range(self.hosts):
                if row.version[host] != self.version[host] and self.fits(row, host):
                    self.score(row, host)

    def pick(self, int policy, int request, const uint8_t[::1] allowed, const double[::1] penalty,
             const int32_t[:, ::1] rows, const double[:, ::1] share, const double[::1] room_w,
             const double[::1] need_w, double alpha=0.0, int first=0, int last=-1):
        """Return (host, gpu) of the best host, (-1, -1) where none fits; gpu is -1 unless a fraction is asked."""
        cdef Row* row = self.row_of(request)
        cdef int host, best = -1, seen = 0
        cdef double level, tie, best_level = 0, best_tie = 0
        if allowed.shape[0] != self.hosts or penalty.shape[0] != self.hosts or rows.shape[0] != self.hosts:
            raise ValueError(f"allowed, penalty and rows: expected {self.hosts} hosts")
        if share.shape[0] != rows.shape[0] or share.shape[1] != rows.shape[1] or need_w.shape[0] != self.models:
            raise ValueError("share must have the shape of rows, need_w one entry for each model")
        if last < 0 or last > self.hosts:
            last = self.hosts
        with nogil:
            for host in range(max(first, 0), last):
                if not allowed[host] or not self.fits(row, host):
                    continue
                if policy == RANDOM:
                    if not has_room(rows, share, room_w, need_w[self.model[host]], host):
                        continue
                    seen += 1
                    if self.draw_below(seen) == 0:
                        best = host
                    continue
                if policy <= QFGD_POWER and row.version[host] != self.version[host]:
                    self.score(row, host)
                self.rate(policy, row, host, alpha, &level, &tie)
                tie -= penalty[host]
                if best >= 0 and (level < best_level or (level == best_level and tie <= best_tie)):
                    continue
                # only hosts that would win look their rows up: most never do
                if has_room(rows, share, room_w, need_w[self.model[host]], host):
                    best, best_level, best_tie = host, level, tie
        if best < 0:
            return -1, -1
        return best, self.gpu_of(policy, row, best)

    def terms(self, int policy, int request, int host, double alpha=0.0):
        """Return (level, tie, fragmentation gradient in milli, watts delta) of a host that fits."""
        cdef Row* row = self.row_of(request)
        cdef double level = 0, tie = 0
        if row.version[host] != self.version[host]:
            self.score(row, host)
        if policy != RANDOM:
            self.rate(policy, row, host, alpha, &level, &tie)
        return level, tie, row.gradient[host] * 1000.0, row.watts[host]

    def feasible(self, int request, int host):
        """Return True where CPU, memory, model and GPUs of this host suffice."""
        return bool(self.fits(self.row_of(request), host))

    cdef Row* row_of(self, int request) except NULL:
        if request < 0 or request >= self.used:
            raise IndexError(f"request {request}: expected 0..{self.used - 1}")
        return self.rows[request]

    cdef unsigned int draw_below(self, unsigned int bound) noexcept nogil:
        self.state ^= self.state << 13
        self.state ^= self.state >> 7
        self.state ^= self.state << 17
        return <unsigned int>((self.state >> 11) % bound)

    cdef void update(self, int host) noexcept nogil:
        cdef int gpu
        cdef i64 total = 0
        for gpu in range(self.gpu_count[host]):
            total += self.gpu_left[host, gpu]
        self.free_milli[host] = total
        self.fragment[host] = self.fragment_of(host, self.cpu_left[host], &self.gpu_left[host, 0])
        self.draw[host] = self.draw_of(host, self.cpu_left[host], &self.gpu_left[host, 0])
        self.version[host] += 1

    cdef double fragment_of(self, int host, i64 cpu, const i64* left) noexcept nogil:
        cdef int kind, gpu, wide, count = self.gpu_count[host], model = self.model[host]
        cdef i64 total = 0, narrow, milli
        cdef double result = 0
        for gpu in range(count):
            total += left[gpu]
        if total == 0:
            return 0
        for kind in range(self.kinds):
            milli = self.kind_milli[kind]
            if milli == 0 or cpu < self.kind_cpu[kind] or not self.kind_models[kind, model]:
                result += self.kind_share[kind] * total
                continue
            wide, narrow = 0, 0
            for gpu in range(count):
                if left[gpu] >= milli:
                    wide += 1
                else:
                    narrow += left[gpu]
            result += self.kind_share[kind] * (narrow if wide >= self.kind_gpus[kind] else total)
        return result

    cdef double draw_of(self, int host, i64 cpu, const i64* left) noexcept nogil:
        cdef int gpu, idle = 0, count = self.gpu_count[host], model = self.model[host]
        cdef double cores, idle_cores, sockets, active
        for gpu in range(count):
            if left[gpu] == 1000:
                idle += 1
        cores = ceil(self.cpu_total[host] / 2000.0)
        idle_cores = floor(cpu / 2000.0)
        sockets = ceil(cores / self.socket_cores)
        active = ceil((cores - idle_cores) / self.socket_cores)
        return (idle * self.idle_w[model] + (count - idle) * self.busy_w[model]
                + self.socket_idle_w * (sockets - active) + self.socket_busy_w * active)

    cdef bint fits(self, const Row* row, int host) noexcept nogil:
        cdef int gpu, found = 0
        if self.cpu_left[host] < row.cpu or self.memory_left[host] < row.memory:
            return False
        if row.gpus == 0:
            return True
        if not row.models[self.model[host]] or self.free_milli[host] < row.gpus * row.milli:
            return False
        for gpu in range(self.gpu_count[host]):
            if self.gpu_left[host, gpu] < row.milli:
                continue
            if row.gpu_memory == 0 or self.gpu_memory_left[host, gpu] >= row.gpu_memory:
                found += 1
                if found >= row.gpus:
                    return True
        return False

    cdef void score(self, Row* row, int host) noexcept nogil:
        cdef i64 left[WIDTH]
        cdef int gpu, count = self.gpu_count[host], wanted = row.gpus, exact = -1, rounded = -1
        cdef double gradient = 0, watts = 0, value
        cdef int level, best_level = 0
        cdef i64 cpu = self.cpu_left[host] - row.cpu
        for gpu in range(count):
            left[gpu] = self.gpu_left[host, gpu]
        if row.gpus == 1 and row.milli < 1000:
            for gpu in range(count):
                if left[gpu] < row.milli or self.gpu_memory_left[host, gpu] < row.gpu_memory:
                    continue
                left[gpu] -= row.milli
                value = (self.fragment[host] - self.fragment_of(host, cpu, left)) / 1000.0
                if exact < 0 or value > gradient:
                    exact, gradient = gpu, value
                    watts = self.draw[host] - self.draw_of(host, cpu, left)
                level = sigmoid_of(value)
                if rounded < 0 or level > best_level:
                    rounded, best_level = gpu, level
                left[gpu] += row.milli
        else:
            for gpu in range(count):
                if wanted and left[gpu] >= row.milli and self.gpu_memory_left[host, gpu] >= row.gpu_memory:
                    left[gpu] -= row.milli
                    wanted -= 1
            gradient = (self.fragment[host] - self.fragment_of(host, cpu, left)) / 1000.0
            watts = self.draw[host] - self.draw_of(host, cpu, left)
        row.gradient[host], row.watts[host], row.sigmoid[host] = gradient, watts, sigmoid_of(gradient)
        row.gpu_exact[host], row.gpu_rounded[host] = exact, rounded
        row.version[host] = self.version[host]

    cdef void rate(self, int policy, const Row* row, int host, double alpha,
                   double* level, double* tie) noexcept nogil:
        cdef double cpu = self.cpu_left[host], milli = self.free_milli[host]
        cdef double asked = row.milli * row.gpus
        cdef double snug = (0.5 * (milli - asked) / self.gpu_scale + 0.5 * (cpu - row.cpu) / self.cpu_scale)
        tie[0] = 0
        if policy == FGD:
            level[0] = row.sigmoid[host]
        elif policy == QFGD:
            level[0] = floor(row.gradient[host] / self.quantum + 1e-6)
            tie[0] = -snug
        elif policy == QFGD_POWER:
            level[0] = floor((row.gradient[host] + alpha * row.watts[host] / 100.0) / self.quantum + 1e-6)
            tie[0] = -snug
        elif policy == BEST_FIT:
            level[0] = <i64>((1.0 - snug) * 100)
        elif policy == SPREAD:
            level[0] = milli - asked
            tie[0] = cpu
        elif policy == DOT_PRODUCT:
            level[0] = <i64>(100 * (1 - (cpu / self.cpu_scale * (row.cpu / self.cpu_scale)
                                         + milli / self.gpu_scale * (asked / self.gpu_scale)) / 2))
        else:
            level[0] = self.packed(row, host)

    cdef double packed(self, const Row* row, int host) noexcept nogil:
        cdef int gpu, whole = 0, count = self.gpu_count[host], opened = row.gpus
        cdef i64 left, least = 1001
        if row.gpus == 0:
            return 0
        for gpu in range(count):
            if self.gpu_left[host, gpu] == 1000:
                whole += 1
        if whole == count:
            return max(33 - whole, whole)
        if row.gpus == 1 and row.milli < 1000:
            for gpu in range(count):
                left = self.gpu_left[host, gpu]
                if row.milli <= left < least and self.gpu_memory_left[host, gpu] >= row.gpu_memory:
                    least = left
            if least < 1000:
                return max(100 - least // 100, 50)
            opened = 1
        return max(50 - opened, 33)

    cdef int gpu_of(self, int policy, const Row* row, int host) noexcept nogil:
        """Return the GPU that takes a fraction, -1 where whole GPUs or none are asked."""
        cdef int gpu, found = -1, seen = 0
        cdef i64 left
        if row.gpus != 1 or row.milli >= 1000:
            return -1
        if policy == FGD:
            return row.gpu_rounded[host]
        if policy == QFGD or policy == QFGD_POWER:
            return row.gpu_exact[host]
        for gpu in range(self.gpu_count[host]):
            left = self.gpu_left[host, gpu]
            if left < row.milli or self.gpu_memory_left[host, gpu] < row.gpu_memory:
                continue
            seen += 1
            if policy == RANDOM:
                if self.draw_below(seen) == 0:
                    found = gpu
            elif found < 0:
                found = gpu
            elif policy == SPREAD and left > self.gpu_left[host, found]:
                found = gpu
            elif policy != SPREAD and left < self.gpu_left[host, found]:
                found = gpu
        return found


cdef int sigmoid_of(double gradient) noexcept nogil:
    return <int>(100.0 / (1.0 + exp(-gradient)))


cdef bint has_room(const int32_t[:, ::1] rows, const double[:, ::1] share, const double[::1] room_w,
                   double need_w, int host) noexcept nogil:
    cdef Py_ssize_t column
    cdef int row
    for column in range(rows.shape[1]):
        row = rows[host, column]
        if row >= 0 and share[host, column] * need_w > room_w[row]:
            return False
    return True
