import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.function.IntConsumer;
import java.util.stream.Collectors;

/** A client with Java's HttpClient, as it is by default: it offers HTTP/2. */
class WithJava {
    static final int CONNECTIONS = 4;

    static String json(Map<String, Integer> counts) {
        return counts.entrySet().stream()
                .map(each -> "\"" + each.getKey() + "\":" + each.getValue())
                .collect(Collectors.joining(",", "{", "}"));
    }

    public static void main(String[] arguments) throws Exception {
        var url = URI.create(arguments[0]);
        var tokens = arguments[1].split(",");
        var body = Files.readAllBytes(Path.of(arguments[2]));
        var count = Integer.parseInt(arguments[3]);
        var accept = arguments[4];
        var client = HttpClient.newHttpClient();
        var statuses = new TreeMap<String, Integer>();
        var lost = new TreeMap<String, Integer>();
        IntConsumer connection = index -> {
            for (int number = 0; number < count / CONNECTIONS; number++) {
                var request = HttpRequest.newBuilder(url)
                        .timeout(Duration.ofSeconds(60))
                        .header("Authorization", "Bearer " + tokens[index % tokens.length])
                        .header("Accept", accept)
                        .header("Content-Type", "text/plain")
                        // nginx limits the uploads of each address
                        .header("X-Forwarded-For", "10.0.0." + (number % 250 + 1))
                        .POST(HttpRequest.BodyPublishers.ofByteArray(body))
                        .build();
                try {
                    var status = client.send(request, HttpResponse.BodyHandlers.ofByteArray()).statusCode();
                    synchronized (statuses) {
                        statuses.merge(Integer.toString(status), 1, Integer::sum);
                    }
                } catch (IOException | InterruptedException error) {
                    synchronized (lost) {
                        lost.merge(error.getClass().getSimpleName(), 1, Integer::sum);
                    }
                }
            }
        };
        var pool = Executors.newFixedThreadPool(CONNECTIONS);
        for (int each = 0; each < CONNECTIONS; each++) {
            var index = each;
            pool.submit(() -> connection.accept(index));
        }
        pool.shutdown();
        pool.awaitTermination(1, TimeUnit.HOURS);
        System.out.println("{\"statuses\":" + json(statuses) + ",\"lost\":" + json(lost) + "}");
    }
}
