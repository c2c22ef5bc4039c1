package shop;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.Map;

/** Checks this example against schemas/conformance.json of the ledger: names, partitions, bytes. */
public final class Conformance {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws IOException {
        Path folder = Path.of(arguments[0]);
        Ledger ledger = new Ledger(folder.resolve("lock.json"));
        JsonNode file = JSON.readTree(folder.resolve("conformance.json").toFile());

        JsonNode counts = file.at("/partitions/counts");
        JsonNode accounts = file.at("/partitions/accounts");
        for (JsonNode row : accounts) {
            String account = row.get(0).asText();
            check(Ledger.isName(account, 128), account);
            for (int at = 0; at < counts.size(); at++) {
                check(Ledger.partitionOf(account, counts.get(at).asInt()) == row.get(1).get(at).asInt(), account);
            }
        }
        for (JsonNode account : file.get("refused_accounts")) {
            check(!Ledger.isName(account.asText(), 128), account.toString());
        }
        for (JsonNode row : file.get("commands")) {
            Map<String, Object> fields = JSON.convertValue(row.get("fields"), new TypeReference<>() {});
            byte[] key = fields.get("account").toString().getBytes(StandardCharsets.UTF_8);
            byte[] value = ledger.encode(row.get("record").asText(), fields);
            check(HexFormat.of().formatHex(key).equals(row.get("key").asText()), fields.toString());
            check(HexFormat.of().formatHex(value).equals(row.get("value").asText()), fields.toString());
        }
        System.out.println(accounts.size() + " accounts and " + file.get("commands").size() + " commands agree");
    }

    private static void check(boolean isSo, String what) {
        if (!isSo) {
            throw new AssertionError(what);
        }
    }
}
