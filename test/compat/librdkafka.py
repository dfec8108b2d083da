"""Produces and consumes with librdkafka: idempotent producer, keyed records with headers, a group of two consumers."""

import sys
import time

from confluent_kafka import Consumer, Producer, libversion

broker, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

failed = []
producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 5})
for i in range(count):
    producer.produce(topic, key=f"key-{i % 97}", value=f"value-{i}", headers={"n": str(i)}, on_delivery=lambda err, _: err and failed.append(err))
    producer.poll(0)
if producer.flush(60) or failed:
    sys.exit(f"not delivered: {failed[:3]}")


def consumer():
    c = Consumer({
        "bootstrap.servers": broker, "group.id": topic + "-group", "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "session.timeout.ms": 10000,
    })
    c.subscribe([topic])
    return c


members, values, order = [consumer(), consumer()], {}, {}
deadline = time.time() + 60
while len(values) < count and time.time() < deadline:
    for c in members:
        for m in c.consume(500, timeout=0.2):
            if m.error():
                sys.exit(f"consume: {m.error()}")
            n = int(dict(m.headers())["n"])
            if m.value().decode() != f"value-{n}" or m.key().decode() != f"key-{n % 97}":
                sys.exit(f"record {n} came back changed")
            if order.get(m.key(), -1) >= n and n not in values:
                sys.exit(f"key {m.key()} came out of order")
            order[m.key()] = max(order.get(m.key(), -1), n)
            values[n] = True
for c in members:
    try:
        c.commit(asynchronous=False)
    except Exception as e:  # a member without an assignment has nothing to commit
        if "NO_OFFSET" not in str(e):
            raise
    c.close()
if len(values) != count:
    sys.exit(f"read {len(values)} of {count}")

# The group resumes where it left off: nothing is left to read.
again = consumer()
late = [m for m in again.consume(10, timeout=5) if not m.error()]
again.close()
if late:
    sys.exit(f"{len(late)} records came again after the commit")
print(f"ok {count} librdkafka {libversion()[0]}")
