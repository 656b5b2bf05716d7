"""The tasks of a kernel, shared among threads: `share(threads, tasks, body, arguments)`.

Every thread owns a run of neighbouring tasks, which it takes a few at a time; one that has done its own helps the
others. So a thread whose core is lent to another process holds up no more than the tasks it has in hand. Who does a
task changes no bit of its result. With one thread the tasks run where they are called, and no other thread is woken.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

PARTS = 16  # in which a thread takes its run of tasks: a few at a time where they are many and small
LINE = 8  # int64s of a cache line: each thread's counter has its own

i8p, i64 = ir.IntType(8).as_pointer(), ir.IntType(64)
ENTRY = ir.FunctionType(ir.VoidType(), [i8p.as_pointer(), i64.as_pointer(), i64.as_pointer(), i8p])
PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [i8p] * 5 + [i64] * 3)

JOINED, THREADS, TASKS, COUNTERS, ARGUMENTS = range(5)  # the fields of a job


@intrinsic
def share(typingctx, threads, tasks, body, arguments):
    """Call body(task, thread, *arguments) for every task below `tasks`, on so many threads.

    `thread` (0 to threads - 1) is the caller's own while a task runs: it may index scratch memory.
    """
    call = body.get_call_type(typingctx, (types.int64, types.int64, *map(types.unliteral, arguments.types)), {})
    signature = types.void(types.int64, types.int64, body, arguments)

    def codegen(context, builder, sig, args):
        threads, tasks, _, given = args
        compiled = body.dispatcher.get_compile_result(call)
        context.active_code_library.add_linking_library(compiled.library)
        values = [
            context.cast(builder, value, have, want)
            for value, have, want in zip(
                cgutils.unpack_tuple(builder, given), sig.args[3].types, call.args[2:], strict=True
            )
        ]
        packed = ir.LiteralStructType([value.type for value in values])
        job_type = ir.LiteralStructType([i64, i64, i64, i64.as_pointer(), packed])
        job = cgutils.alloca_once(builder, job_type)
        stack = builder.call(_intrinsic(builder, "llvm.stacksave.p0", i8p, []), [])
        counters = builder.alloca(i64, builder.mul(threads, i64(LINE)))
        for field, value in zip((JOINED, THREADS, TASKS, COUNTERS), (i64(0), threads, tasks, counters), strict=True):
            builder.store(value, cgutils.gep_inbounds(builder, job, 0, field))
        for i, value in enumerate(values):
            builder.store(value, cgutils.gep_inbounds(builder, job, 0, ARGUMENTS, i))
        with cgutils.for_range(builder, threads) as loop:
            builder.store(
                _first(builder, loop.index, tasks, threads), builder.gep(counters, [builder.mul(loop.index, i64(LINE))])
            )
        entry = _entry(context, builder.module, compiled, call, job_type)
        data, null = builder.bitcast(job, i8p), ir.Constant(i8p, None)
        with builder.if_else(builder.icmp_signed(">", threads, i64(1))) as (several, one):
            with several:
                size = cgutils.alloca_once_value(builder, threads)
                region = cgutils.get_or_insert_function(builder.module, PARALLEL_FOR, "numba_parallel_for")
                builder.call(region, [builder.bitcast(entry, i8p), null, builder.bitcast(size, i8p), null, data, i64(0),
                                      i64(0), threads])  # fmt: skip
            with one:
                builder.call(entry, [ir.Constant(kind, None) for kind in ENTRY.args[:3]] + [data])
        builder.call(_intrinsic(builder, "llvm.stackrestore.p0", ir.VoidType(), [i8p]), [stack])
        return context.get_dummy_value()

    return signature, codegen


def _intrinsic(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _first(builder, thread, tasks, threads):
    """Return the first task of a thread's own run."""
    return builder.sdiv(builder.mul(thread, tasks), threads)


def _entry(context, module, compiled, call, job_type):
    """Return what each thread runs: it joins the job and takes tasks, its own first, until there are none."""
    function = ir.Function(module, ENTRY, module.get_unique_name("take_tasks"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    job = builder.bitcast(function.args[3], job_type.as_pointer())

    def field(*path):
        return cgutils.gep_inbounds(builder, job, 0, *path)

    threads, tasks, counters = (builder.load(field(i)) for i in (THREADS, TASKS, COUNTERS))
    arguments = [builder.load(field(ARGUMENTS, i)) for i in range(len(call.args) - 2)]
    body = context.declare_function(module, compiled.fndesc)
    thread = builder.atomic_rmw("add", field(JOINED), i64(1), "monotonic")
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
            context.call_conv.call_function(builder, body, call.return_type, call.args,
                                            [builder.add(task, loop.index), thread, *arguments])  # fmt: skip
        builder.branch(take)
        builder.position_at_end(done)
    builder.ret_void()
    return function
