package shop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;

/** What any producer of commands must agree with: names, partitions, bytes. Sends nothing. */
final class Ledger {
    private static final Pattern BAD_IN_NAME = Pattern.compile("[\\p{Cc}\\p{Cs}]|\\A\\p{Z}|\\p{Z}\\z");

    private final Map<Integer, Schema> schemas = new HashMap<>();
    private final Map<String, Integer> ids = new HashMap<>();

    /** Schemas by id, from schemas/lock.json of the installed package. The HTTP door has each at /schemas/{id}. */
    Ledger(Path lockFile) throws IOException {
        for (JsonNode row : new ObjectMapper().readTree(lockFile.toFile()).get("schemas")) {
            int id = row.get("id").asInt();
            schemas.put(id, new Schema.Parser().parse(row.get("schema").toString()));
            ids.put(row.get("subject").asText(), id);
        }
    }

    /** A record as the log has it: a zero byte, the schema's id, the Avro body. Absent fields are at their defaults. */
    byte[] encode(String record, Map<String, Object> fields) {
        int id = ids.get(record);
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        out.writeBytes(ByteBuffer.allocate(5).put((byte) 0).putInt(id).array());
        try {
            var encoder = EncoderFactory.get().binaryEncoder(out, null);
            new GenericDatumWriter<>(schemas.get(id)).write(build(schemas.get(id), fields), encoder);
            encoder.flush();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return out.toByteArray();
    }

    /** The record; null for what a newer ledger writes, which is to be skipped. */
    GenericRecord decode(byte[] value) throws IOException {
        Schema schema = value[0] == 0 ? schemas.get(ByteBuffer.wrap(value).getInt(1)) : null;
        if (schema == null) {
            return null;
        }
        GenericData texts = new GenericData();
        texts.setStringType(schema, GenericData.StringType.String);
        var decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null);
        return (GenericRecord) new GenericDatumReader<>(schema).read(null, decoder);
    }

    private static GenericRecord build(Schema schema, Map<String, Object> fields) {
        GenericRecordBuilder builder = new GenericRecordBuilder(schema);
        fields.forEach((name, value) -> builder.set(name, converted(schema.getField(name).schema(), value)));
        return builder.build();
    }

    @SuppressWarnings("unchecked")
    private static Object converted(Schema schema, Object value) {
        return switch (schema.getType()) {
            case LONG -> ((Number) value).longValue();
            case ARRAY -> ((List<Map<String, Object>>) value)
                    .stream().map(item -> build(schema.getElementType(), item)).toList();
            default -> value;
        };
    }

    /** The partition that Kafka's Java producer chooses by default; other clients must be set to the same. */
    static int partitionOf(String account, int partitions) {
        return BuiltInPartitioner.partitionForKey(account.getBytes(StandardCharsets.UTF_8), partitions);
    }

    /** Whether a text can name an account (128 characters) or a command (64): Unicode's characters, not UTF-16's. */
    static boolean isName(String text, int longest) {
        return !text.isEmpty()
                && text.codePointCount(0, text.length()) <= longest
                && !BAD_IN_NAME.matcher(text).find();
    }
}
