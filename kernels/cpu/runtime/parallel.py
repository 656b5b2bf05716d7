"""The tasks of a kernel, shared among threads: `share(team, tasks, body, arguments)`.

Every thread owns a run of neighbouring tasks, which it takes a few at a time; one that has done its own helps the
others. So a thread whose core is lent to another process holds up no more than the tasks it has in hand. Who does a
task changes no bit of its result. With one thread the tasks run where they are called, and no other thread is woken.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.runtime import denormals
from fastcnn.kernels.cpu.runtime.atomics import C_ARGUMENTS
from fastcnn.kernels.cpu.runtime.machine_code import function_type, i8, i64
from fastcnn.kernels.cpu.runtime.thread_pool import work

i8p = i8.as_pointer()
PARTS = 16  # in which a thread takes its run of tasks: a few at a time where they are many and small
LINE = 8  # int64s of a cache line: each thread's counter has its own

THREADS, TASKS, COUNTERS, ARGUMENTS = range(4)  # the fields of a job


@intrinsic
def share(typingctx, team, tasks, body, arguments):
    """Call body(task, thread, *arguments) for every task below `tasks`; team is what `call_parallel` gives a kernel.

    `thread` (0 to the number of threads - 1) is the caller's own while a task runs: it may index scratch memory.
    """
    call_type = body.get_call_type(typingctx, (types.int64, types.int64, *map(types.unliteral, arguments.types)), {})
    signature = types.void(team, types.int64, body, arguments)

    def codegen(context, builder, sig, args):
        (threads, pool), (_, tasks, _, given) = cgutils.unpack_tuple(builder, args[0]), args
        compiled = body.dispatcher.get_compile_result(call_type)
        context.active_code_library.add_linking_library(compiled.library)
        kinds = zip(cgutils.unpack_tuple(builder, given), arguments.types, call_type.args[2:], strict=True)
        values = [_borrowed(context, builder, context.cast(builder, *kind), kind[2]) for kind in kinds]
        packed = ir.LiteralStructType([value.type for value in values])
        job_type = ir.LiteralStructType([i64, i64, i64.as_pointer(), packed])
        stack = _intrinsic(builder, "llvm.stacksave.p0", i8p)  # in a loop, the counters would pile up
        job, counters = cgutils.alloca_once(builder, job_type), builder.alloca(i64, builder.mul(threads, i64(LINE)))
        for field, value in zip((THREADS, TASKS, COUNTERS), (threads, tasks, counters), strict=True):
            builder.store(value, cgutils.gep_inbounds(builder, job, 0, field))
        for i, value in enumerate(values):
            builder.store(value, cgutils.gep_inbounds(builder, job, 0, ARGUMENTS, i))
        with cgutils.for_range(builder, threads) as loop:
            counter = builder.gep(counters, [builder.mul(loop.index, i64(LINE))])
            builder.store(_first(builder, loop.index, tasks, threads), counter)
        entry = _entry(context, builder.module, compiled, call_type, job_type)
        addresses = [builder.ptrtoint(pointer, i64) for pointer in (entry, job)]
        context.compile_internal(builder, work, types.void(*[types.int64] * 4), [pool, threads, *addresses])
        _intrinsic(builder, "llvm.stackrestore.p0", ir.VoidType(), stack)
        return context.get_dummy_value()

    return signature, codegen


def _borrowed(context, builder, value, kind):
    """Return an array without its owner: its caller keeps it alive, and counting references takes turns at one word.

    The arrays of a tuple are treated alike.
    """
    if isinstance(kind, types.BaseTuple):
        for i, part in enumerate(kind):
            borrowed = _borrowed(context, builder, builder.extract_value(value, i), part)
            value = builder.insert_value(value, borrowed, i)
        return value
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    for owner in ("meminfo", "parent"):
        setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
    return array._getvalue()


def _intrinsic(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _first(builder, thread, tasks, threads):
    """Return the first task of a thread's own run."""
    return builder.sdiv(builder.mul(thread, tasks), threads)


def _entry(context, module, compiled, call_type, job_type):
    """Return what each thread runs: it takes tasks, its own first, until there are none."""
    function = ir.Function(module, function_type(C_ARGUMENTS), module.get_unique_name("take_tasks"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    job, thread = builder.inttoptr(function.args[0], job_type.as_pointer()), function.args[1]

    def field(*path):
        return cgutils.gep_inbounds(builder, job, 0, *path)

    before = denormals.flush(builder)
    threads, tasks, counters = (builder.load(field(i)) for i in (THREADS, TASKS, COUNTERS))
    arguments = [builder.load(field(ARGUMENTS, i)) for i in range(len(call_type.args) - 2)]
    body = context.declare_function(module, compiled.fndesc)
    several = builder.sdiv(tasks, builder.mul(threads, i64(PARTS)))
    part = builder.select(builder.icmp_signed(">", several, i64(1)), several, i64(1))
    with cgutils.for_range(builder, threads) as owners:
        owner = builder.srem(builder.add(thread, owners.index), threads)
        counter = builder.gep(counters, [builder.mul(owner, i64(LINE))])
        last = _first(builder, builder.add(owner, i64(1)), tasks, threads)
        take, taken, done = (builder.append_basic_block(name) for name in ("take", "taken", "done"))
        builder.branch(take)
        builder.position_at_end(take)
        task = builder.atomic_rmw("add", counter, part, "monotonic")
        builder.cbranch(builder.icmp_signed("<", task, last), taken, done)
        builder.position_at_end(taken)
        left = builder.sub(last, task)
        count = builder.select(builder.icmp_signed("<", left, part), left, part)
        with cgutils.for_range(builder, count) as loop:
            context.call_conv.call_function(builder, body, call_type.return_type, call_type.args,
                                            [builder.add(task, loop.index), thread, *arguments])  # fmt: skip
        builder.branch(take)
        builder.position_at_end(done)
    denormals.restore(builder, before)
    builder.ret_void()
    return function
