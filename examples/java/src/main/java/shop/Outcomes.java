package shop;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Follows what the ledger decided: the topics of outcomes and of dead letters. Used by one thread. */
final class Outcomes implements AutoCloseable {
    /** What became of a command; the position is where it was decided, which for a repeat is its first record's. */
    record Found(String result, String reason, String position, GenericRecord fields) {}

    private final Ledger ledger;
    private final String deadLetters;
    private final KafkaConsumer<byte[], byte[]> consumer;
    // A service keeps these in its database, with the offsets, in one transaction, and goes on from there.
    private final Map<List<String>, Found> decided = new HashMap<>();
    private final Map<String, Found> dead = new HashMap<>();

    Outcomes(String bootstrap, String outcomes, String deadLetters, Ledger ledger) {
        this.ledger = ledger;
        this.deadLetters = deadLetters;
        // Without read_committed, outcomes of transactions that were aborted are read as well.
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "isolation.level", "read_committed");
        consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        List<TopicPartition> partitions = Stream.of(outcomes, deadLetters)
                .flatMap(topic -> consumer.partitionsFor(topic).stream())
                .map(info -> new TopicPartition(info.topic(), info.partition()))
                .toList();
        consumer.assign(partitions);
        consumer.seekToBeginning(partitions);
    }

    /** Waits for the outcome of a command that was appended at a position; null where it didn't come in time. */
    Found await(String position, String kind, Map<String, Object> command, Duration most) throws IOException {
        Instant end = Instant.now().plus(most);
        Found found = find(position, kind, command);
        while (found == null && Instant.now().isBefore(end)) {
            for (ConsumerRecord<byte[], byte[]> message : consumer.poll(Duration.ofSeconds(1))) {
                take(message);
            }
            found = find(position, kind, command);
        }
        return found;
    }

    private void take(ConsumerRecord<byte[], byte[]> message) throws IOException {
        if (message.topic().equals(deadLetters)) {
            String position = header(message, "creditfold-partition") + ":" + header(message, "creditfold-offset");
            dead.put(position, new Found("dead letter", header(message, "creditfold-reason"), position, null));
            return;
        }
        GenericRecord fields = ledger.decode(message.value());
        if (fields == null || !fields.hasField("command_id") || fields.get("command_id").toString().isEmpty()) {
            return;
        }
        boolean isRejected = fields.hasField("rejection");
        String reason = isRejected ? fields.get("rejection").toString() : "";
        Found found = new Found(
                isRejected ? "rejected" : "accepted", reason, header(message, "creditfold-position"), fields);
        // A command id is decided once: the first outcome stands.
        decided.putIfAbsent(List.of(fields.get("account").toString(), fields.get("command_id").toString()), found);
    }

    private static String header(ConsumerRecord<byte[], byte[]> message, String name) {
        Header last = message.headers().lastHeader(name);
        return last == null ? "" : new String(last.value(), StandardCharsets.UTF_8);
    }

    /**
     * A command that was decided before has no outcome of its own; its first one counts, if it was of the same command.
     * Another command under a used id is a dead letter.
     */
    private Found find(String position, String kind, Map<String, Object> command) {
        if (dead.containsKey(position)) {
            return dead.get(position);
        }
        Found found = decided.get(List.of(command.get("account"), command.get("command_id")));
        if (found == null || found.position().equals(position)) {
            return found;
        }
        boolean isSame = Stream.of("asset", "amount")
                .allMatch(name -> found.fields().get(name).toString().equals(command.get(name).toString()));
        return isSame && found.fields().get("kind").toString().equals(kind) ? found : null;
    }

    @Override
    public void close() {
        consumer.close();
    }
}
