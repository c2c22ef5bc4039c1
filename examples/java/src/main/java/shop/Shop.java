package shop;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A shop that grants and charges credits, and charges for no order twice. Arguments: ACCOUNT:KIND:ID:AMOUNT ...
 */
public final class Shop {
    private static final Map<String, String> RECORDS =
            Map.of("grant", "creditfold.commands.Grant", "spend", "creditfold.commands.Spend");
    private static final Duration MOST = Duration.ofMinutes(5);

    private final Ledger ledger;
    private final KafkaProducer<byte[], byte[]> producer;
    private final String topic;

    private Shop(Ledger ledger, String bootstrap, String topic) {
        this.ledger = ledger;
        this.topic = topic;
        // These two are the client's defaults, and may have been changed by somebody's template. So is the partitioner,
        // murmur2 of the key: set no partitioner.class.
        Map<String, Object> settings =
                Map.of("bootstrap.servers", bootstrap, "enable.idempotence", true, "acks", "all");
        producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    public static void main(String[] arguments) throws Exception {
        String bootstrap = setting("KAFKA_BOOTSTRAP", "127.0.0.1:29092");
        String outcomesTopic = setting("OUTCOMES_TOPIC", "creditfold.outcomes.v1");
        String deadLettersTopic = setting("DEAD_LETTERS_TOPIC", "creditfold.dead-letters.v1");
        Ledger ledger = new Ledger(Path.of(System.getenv().getOrDefault("SHOP_SCHEMAS", "lock.json")));
        Shop shop = new Shop(ledger, bootstrap, setting("COMMANDS_TOPIC", "creditfold.commands.v1"));
        try (var producer = shop.producer;
                var outcomes = new Outcomes(bootstrap, outcomesTopic, deadLettersTopic, ledger)) {
            for (String order : arguments) {
                System.out.println(new ObjectMapper().writeValueAsString(shop.settle(order, outcomes)));
            }
        }
    }

    private static String setting(String name, String otherwise) {
        return System.getenv().getOrDefault("CREDITFOLD_" + name, otherwise);
    }

    /** Sends one order and waits for what becomes of it. Nothing is delivered before that is known. */
    private Map<String, Object> settle(String order, Outcomes outcomes) throws Exception {
        // The id comes of the order, so that it is the same after a crash; never of a clock or a random number.
        String[] parts = order.split(":");
        String account = parts[0], kind = parts[1], id = parts[2];
        if (!Ledger.isName(account, 128) || !Ledger.isName(id, 64)) {
            throw new IllegalArgumentException("not a name: " + account + " or " + id);
        }
        Map<String, Object> command = Map.of(
                "command_id", id, "account", account, "asset", "credits", "amount", Long.parseLong(parts[3]),
                "source", "shop");
        String position = append(RECORDS.get(kind), command);
        Outcomes.Found found = outcomes.await(position, kind, command, MOST);
        if (found == null) {
            // It is in the log all the same: whoever sends it again gets this very outcome.
            throw new IllegalStateException("no outcome of " + position + " in time");
        }
        Map<String, Object> shown = new LinkedHashMap<>();
        shown.put("account", account);
        shown.put("id", id);
        shown.put("result", found.result());
        shown.put("reason", found.reason());
        if (found.fields() != null) {
            shown.put("balance", found.fields().get("balance").toString());
            shown.put("decided", found.position());
        }
        shown.put("position", position);
        return shown;
    }

    /** Appends a command and returns its position. */
    private String append(String record, Map<String, Object> command) throws Exception {
        byte[] key = command.get("account").toString().getBytes(StandardCharsets.UTF_8);
        byte[] value = ledger.encode(record, command);
        Instant end = Instant.now().plus(MOST);
        while (true) {
            try {
                RecordMetadata at = producer.send(new ProducerRecord<>(topic, key, value)).get();
                return at.partition() + ":" + at.offset();
            } catch (ExecutionException error) {
                // It may be in the log or not. The same command with the same id is safe, however often: it counts once.
                if (!(error.getCause() instanceof RetriableException) || Instant.now().isAfter(end)) {
                    throw error;
                }
            }
        }
    }
}
